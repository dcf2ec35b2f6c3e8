"""The loss of training: what counts in it, and its gradient."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage import data

from mirnet_torch.measures.metrics import ssim
from mirnet_torch.training.losses import restoration_loss, structural_similarity


def test_charbonnier_has_a_gradient_outside_the_range_of_images():
    output = torch.tensor([-0.5, 0.2, 3.0], requires_grad=True)
    truth = torch.tensor([0.0, 0.2, 1.0])
    loss = restoration_loss(output, truth, eps=1e-3)
    assert loss.item() == pytest.approx((math.sqrt(0.25 + 1e-6) + 1e-3 + math.sqrt(4 + 1e-6)) / 3)
    loss.backward()
    assert output.grad.tolist() == pytest.approx([-1 / 3, 0, 1 / 3], abs=1e-4)


def test_brightness_counts_less_in_the_loss():
    truth = torch.rand(3, 3, 8, 8)
    darker = (truth * torch.tensor([0.5, 0.8, 0.3]).view(3, 1, 1, 1)).requires_grad_()
    plain = restoration_loss(darker, truth, eps=1e-6)
    assert restoration_loss(darker, truth, eps=1e-6, brightness=0).item() == pytest.approx(0, abs=1e-5)
    quarter = restoration_loss(darker, truth, eps=1e-6, brightness=0.25)
    assert quarter.item() == pytest.approx(plain.item() / 4, rel=1e-3)
    mirrored = restoration_loss(truth.flip(3), truth, eps=1e-6, brightness=0)
    plain = restoration_loss(truth.flip(3), truth, eps=1e-6)
    assert 0.8 < (mirrored / plain).item() < 1.2  # an error that is not brightness
    black = torch.zeros_like(truth).requires_grad_()
    restoration_loss(black, truth, eps=1e-3, brightness=0.3).backward()
    assert black.grad.isfinite().all()


def test_structure_is_close_to_the_metric():
    photograph = data.coffee()
    noisy = np.clip(photograph + np.random.default_rng(0).normal(0, 12, photograph.shape), 0, 255).astype(np.uint8)
    first, second = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255 for image in (photograph, noisy))
    assert structural_similarity(first, second).item() == pytest.approx(ssim(noisy, photograph), abs=0.05)
    assert structural_similarity(first, first).item() == pytest.approx(1)


def test_structure_counts_in_the_loss_and_brightness_does_not():
    truth = torch.rand(2, 3, 16, 16)
    darker = (0.5 * truth).requires_grad_()
    with_it, without = (restoration_loss(darker, truth, eps=1e-6, brightness=0, structure=weight) for weight in (1, 0))
    assert with_it.item() == pytest.approx(without.item(), abs=1e-4)
    blurred = torch.nn.functional.avg_pool2d(truth, 3, 1, 1).requires_grad_()
    added = (restoration_loss(blurred, truth, eps=1e-3, structure=0.5) - restoration_loss(blurred, truth, eps=1e-3))
    assert added.item() > 0.1
    added.backward()
    assert blurred.grad.isfinite().all() and blurred.grad.abs().max() > 0

"""The loss of training: Charbonnier, at the truth's brightness in part, and a term for structure."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mirnet_torch.training.options import WINDOW


def restoration_loss(output: Tensor, truth: Tensor, *, eps: float, brightness: float = 1.0,
                     structure: float = 0.0) -> Tensor:
    """Return the mean over all elements of sqrt(difference^2 + eps^2) (Charbonnier et al., ICIP 1994), and more.

    A dark frame does not show how bright the scene was. That error is so large that it hides all others, and the
    network would memorise the brightness of the training pairs. So the loss can also be taken after every output is
    multiplied by the factor that minimises its squared error.

    Args:
        output: (B, C, H, W).
        truth: the same, in [0, 1].
        eps: see above.
        brightness: weight, 0 to 1, of the loss on unchanged outputs; the rest is that on outputs of the truth's
            brightness.
        structure: weight of 1 - SSIM of outputs of the right brightness; see `structural_similarity`.
    """
    def loss(restored: Tensor) -> Tensor:
        return (restored - truth).square().add(eps * eps).sqrt().mean()
    if brightness == 1 and not structure:
        return loss(output)
    energy = output.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-3)
    gain = ((output * truth).sum((1, 2, 3), keepdim=True) / energy).clamp(0.1, 10)
    total = (1 - brightness) * loss(gain * output) + brightness * loss(output)
    return total + structure * (1 - structural_similarity(gain * output, truth)) if structure else total


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean SSIM of images (B, C, H, W) in [0, 1], in square windows at every other position.

    A loss with it keeps edges and textures that a difference alone smooths away (Zhao et al., "Loss Functions for Image
    Restoration with Neural Networks", IEEE TCI 2017). Windows are uniform, since those take less time than Gaussians.
    """
    values = torch.cat([first, second, first * first, second * second, first * second], 1)
    mean_1, mean_2, square_1, square_2, product = F.avg_pool2d(values, WINDOW, 2).chunk(5, 1)
    variances = square_1 + square_2 - mean_1 * mean_1 - mean_2 * mean_2
    covariance = product - mean_1 * mean_2
    light = (2 * mean_1 * mean_2 + 0.01 ** 2) / (mean_1 * mean_1 + mean_2 * mean_2 + 0.01 ** 2)
    return (light * (2 * covariance + 0.03 ** 2) / (variances + 0.03 ** 2)).mean()

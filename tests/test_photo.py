"""The network for photographs: its colours, its sizes, its tiles."""
from __future__ import annotations

import pytest
import torch

from mirnet_torch import create_model, load_model
from mirnet_torch.cli import UserError
from mirnet_torch.model import parameter_count
from mirnet_torch.photo import PhotoConfig, PhotoMIRNet
from mirnet_torch.restoration import full_size
from mirnet_torch.restoration.full_size import restore_full_size
from mirnet_torch.training.first_network import build_network
from mirnet_torch.training.options import TrainOptions

SMALL = PhotoConfig(detail=(8, 12, 16), n_MSRB=1)


def small_network(dtype: torch.dtype = torch.float64) -> PhotoMIRNet:
    """A network whose detail is not zero, with the colours of `mcu`."""
    torch.manual_seed(0)
    model = PhotoMIRNet(SMALL)
    model.load_state_dict(load_model("mcu").state_dict(), strict=False)
    torch.nn.init.normal_(model.detail.conv_out.weight, std=0.05)
    return model.to(dtype).eval()


def test_a_laptop_can_afford_it():
    from torch.utils.flop_counter import FlopCounterMode

    model = create_model("photo")
    assert parameter_count(model) <= 1.5e6
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 160, 160))
    assert counter.get_total_flops() / 2 / 160 ** 2 <= 25_000


def test_it_has_the_four_elements_of_the_published_network():
    detail = create_model("photo").detail
    kinds = {type(module).__name__ for module in detail.modules()}
    assert {"RRG", "CompactMSRB", "DAU", "ProjectedSpatialAttention", "PeakChannelAttention", "HardSKFF"} <= kinds
    block = detail.body[0].body[0]
    assert len(block.blocks) == 3 and len(block.down) == len(block.last_up) == len(block.selective_kernel) == 2


@torch.inference_mode()
def test_before_training_it_does_what_its_colours_do():
    colours = load_model("mcu")
    model = build_network(TrainOptions.for_preset("photo", init="mcu"))
    dark = torch.rand(1, 3, 61, 83) / 5
    torch.testing.assert_close(model.eval()(dark), colours(dark), rtol=0, atol=0)


def test_another_network_cannot_set_its_colours(tmp_path):
    (tmp_path / "photo.json").write_text('{"network": "photo", "widths": [8, 16]}')
    with pytest.raises(UserError, match="mcu is no compact network of the shape that sets the colours"):
        build_network(TrainOptions.for_preset("photo", init="mcu", config=tmp_path / "photo.json"))


def test_its_own_shape_starts_untrained(tmp_path):
    (tmp_path / "photo.json").write_text('{"network": "photo", "widths": [8, 16], "detail": [8, 12]}')
    options = TrainOptions.for_preset("photo", init="none", config=tmp_path / "photo.json")
    assert options.to_dict()["init"] == "none"
    assert build_network(options).config == PhotoConfig(widths=(8, 16), detail=(8, 12))


def test_windows_of_structure_fit_into_the_patch():
    with pytest.raises(UserError, match="--structure compares windows of 7x7 pixels: give a larger --patch than 6x40"):
        TrainOptions.for_preset("photo", patch=(6, 40))


@pytest.mark.parametrize("height, width", [(1, 1), (17, 40), (80, 121)])
def test_any_size(height, width):
    model = small_network()
    dark = (torch.rand(2, 3, height, width, dtype=torch.float64) / 5).requires_grad_()
    result = model(dark)
    assert result.shape == dark.shape
    result.sum().backward()
    assert dark.grad.isfinite().all()


@pytest.mark.parametrize("detail", [(8,), (8, 8), (16, 8), (4, 8), "8", (8, 8.5)])
def test_streams_must_widen(detail):
    with pytest.raises(ValueError, match="detail must be two to six rising integers"):
        PhotoConfig(detail=detail)


@torch.inference_mode()
def test_full_size_is_the_network_and_tiles_are_near_it(monkeypatch):
    model, dark = small_network(), torch.rand(2, 3, 150, 230, dtype=torch.float64) / 5
    whole = model(dark).clamp(0, 1)
    torch.testing.assert_close(restore_full_size(model, dark), whole, rtol=0, atol=1e-10)
    monkeypatch.setattr(full_size, "TILE", 96)
    tiled = restore_full_size(model, dark)
    assert 0 < (tiled - whole).abs().max() < 0.02 and (tiled - whole).abs().mean() < 5e-4
    levels = (dark * 255).round().to(torch.uint8)
    difference = restore_full_size(model, levels) / 255 - restore_full_size(model, levels / 255)
    assert difference.abs().max() <= 0.5 / 255 + 1e-6


@torch.inference_mode()
def test_exposure_brightens_everywhere():
    model, dark = small_network(), torch.rand(1, 3, 40, 60, dtype=torch.float64) / 5
    means = [model(dark, exposure=exposure).mean().item() for exposure in (-2.0, -0.5, 0.0, 0.5, 2.0)]
    assert means == sorted(means) and means[-1] > 1.5 * means[0]

"""Compact networks: an independent second implementation, the colour maps, sizes and configurations."""
from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from golden import filled

from mirnet_torch import CompactConfig, CompactMIRNet, parameter_count
from mirnet_torch.model import pad_image


# The network once more, straight from its description: no classes, no modules, only rows.
def described(rows, image, config):
    def conv(name, x, **options):
        return F.conv2d(x, rows[f"{name}.weight"], rows.get(f"{name}.bias"), **options)

    def attention(name, x):
        body = conv(f"{name}.body.2", conv(f"{name}.body.0", x, padding=1).relu(), padding=1)
        spatial = body * ((conv(f"{name}.SA.spatial", body, padding=1) + 3) / 6).clamp(0, 1)
        pooled = torch.cat([body.mean((2, 3), True), body.flatten(2).max(2).values[..., None, None]], 1)
        squeezed = conv(f"{name}.CA.conv_du.0", pooled).relu()
        channel = body * ((conv(f"{name}.CA.conv_du.2", squeezed) + 3) / 6).clamp(0, 1)
        return x + conv(f"{name}.conv1x1", torch.cat([spatial, channel], 1))

    b, c, h, w = image.shape
    s, block = config.cell, "body.0.body.0"
    cells = image.sqrt().reshape(b, c, h // s, s, w // s, s).permute(0, 1, 3, 5, 2, 4)
    cells = cells.reshape(b, c * s * s, h // s, w // s)
    start = conv("conv_in", cells)
    fine = attention(f"{block}.blocks.0.0", start)
    coarse = attention(f"{block}.blocks.1.0", conv(f"{block}.down.{config.widths[0]}_2.body.0.0", fine, stride=2))
    back = F.interpolate(conv(f"{block}.last_up.1.body.0.0", coarse), scale_factor=2, mode="bilinear")
    z = conv(f"{block}.selective_kernel.0.conv_du.0", (fine + back).mean((2, 3), True)).relu()
    scores = [conv(f"{block}.selective_kernel.0.fcs.{i}", z) for i in range(2)]
    share = ((scores[0] - scores[1] + 3) / 6).clamp(0, 1)
    block_out = start + conv(f"{block}.conv_out", share * fine + (1 - share) * back)
    maps = conv("conv_out", start + conv("body.0.body.1", block_out))
    return maps


@pytest.mark.parametrize("config", [CompactConfig(), CompactConfig(in_channels=1, cell=4, widths=(8, 20)),
                                    CompactConfig(cell=1, widths=(12, 8))], ids=["mcu", "grey", "single pixels"])
def test_the_core_equals_the_description(config):
    model = filled(CompactMIRNet(config)).double()
    image = torch.rand(2, config.in_channels, 4 * config.cell, 6 * config.cell, dtype=torch.float64)
    with torch.inference_mode():
        maps = model.core(model.to_core(image))
        torch.testing.assert_close(maps, described(model.state_dict(), image, config), rtol=0, atol=1e-10)
        assert torch.equal(model(image), model.restore(image, maps))
    assert maps.shape == (2, config.maps, 4, 6) and model.multiple == 2 * config.cell


# The head once more, pixel by pixel in plain numbers.
def head(pixel, cell, exposure):
    channels, k = len(pixel), 2 ** (exposure / 2.2)
    gain, root_gain = k * math.sqrt(1 + math.exp(4 * cell[0])), k * math.log(1 + math.exp(8 * cell[1])) / 8
    roll_off = 1 / (1 + math.exp(-16 * cell[2]))
    tint, share, offset = cell[3:3 + channels], cell[3 + channels:-channels], cell[-channels:]
    raised = [gain * level + root_gain * math.sqrt(level) for level in pixel]
    divisor = max(1 + roll_off * (gain + root_gain - 1) * max(pixel), max(raised))
    r = [level / divisor for level in raised]
    shares = iter(share)
    return [r[c] + (1 - max(r)) * (tint[c] * r[c] + k * offset[c] / 2
                                   + sum(next(shares) * (r[d] - r[c]) for d in range(channels) if d != c))
            for c in range(channels)]


@pytest.mark.parametrize("exposure", [0.0, -2.5, 4.0])
@pytest.mark.parametrize("channels", [3, 1])
def test_maps_are_a_curve_and_a_colour_change(channels, exposure):
    model = CompactMIRNet(CompactConfig(in_channels=channels, cell=4)).double()
    image = torch.rand(1, channels, 8, 8, dtype=torch.float64)
    for cell in 0.4 * torch.randn(20, model.config.maps, dtype=torch.float64):
        output = model.restore(image, cell[None, :, None, None].expand(1, -1, 2, 2), exposure=exposure)
        for y, x in ((0, 0), (3, 7), (5, 2)):
            expected = head(image[0, :, y, x].tolist(), cell.tolist(), exposure)
            assert output[0, :, y, x].tolist() == pytest.approx(expected, abs=1e-9)


def any_maps(model, rows, columns):
    return 2 * torch.rand(40, model.config.maps, rows, columns, dtype=torch.float64) - 1


def test_light_stays_light():
    """Whatever the maps: white stays white, no hue turns and nothing gets darker by the curve."""
    model = CompactMIRNet().double()
    maps = any_maps(model, 2, 4)
    curve = torch.cat([maps[:, :3], torch.zeros_like(maps[:, 3:])], 1)
    white = torch.ones(40, 3, 10, 20, dtype=torch.float64)
    torch.testing.assert_close(model.restore(white, maps), white)
    image = torch.rand(40, 3, 10, 20, dtype=torch.float64)
    raised = model.restore(image, curve)
    assert (raised >= image - 1e-9).all() and (raised <= 1 + 1e-9).all()
    assert torch.equal(raised.argsort(1), image.argsort(1))
    grey = image[:, :1].expand(-1, 3, -1, -1)
    result = model.restore(grey, curve)
    torch.testing.assert_close(result, result[:, :1].expand(-1, 3, -1, -1))


def test_brighter_with_exposure():
    model = CompactMIRNet().double()
    maps, image = any_maps(model, 2, 4), torch.rand(40, 3, 10, 20, dtype=torch.float64)
    maps[:, 3:] = 0
    steps = [model.restore(image, maps, exposure=ev) for ev in (-4, -1, 0, 0.5, 4)]
    for darker, brighter in zip(steps, steps[1:]):
        assert (brighter >= darker - 1e-9).all() and brighter.mean() > darker.mean()


def test_maps_are_enlarged_as_torch_does():
    model = CompactMIRNet(CompactConfig(in_channels=1))
    maps = torch.zeros(1, 5, 4, 6)
    maps[:, 4] = 2 * torch.rand(4, 6)  # offsets alone: the restored black image is half of the enlarged map
    expected = F.interpolate(maps[:, 4:] / 2, scale_factor=5, mode="bilinear")
    torch.testing.assert_close(model.restore(torch.zeros(1, 1, 20, 30), maps), expected, rtol=0, atol=1e-6)


def test_600x400_and_its_batch_equal_the_single_images():
    model = CompactMIRNet().eval()
    images = torch.rand(3, 3, 400, 600)
    with torch.inference_mode():
        together = model(images)
        torch.testing.assert_close(together, torch.cat([model(image[None]) for image in images]))


def test_padding_keeps_what_it_does_not_touch():
    """A size that needs padding gives the picture of the padded image, cropped."""
    model = filled(CompactMIRNet())
    image = torch.rand(1, 3, 33, 48)
    with torch.inference_mode():
        assert torch.equal(model(image), model(pad_image(image, 3, 10))[..., :33, :48])


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 0, 8), (1, 3, 8, 8, 1)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        CompactMIRNet()(torch.zeros(shape))


@pytest.mark.parametrize("changes", [
    {"in_channels": 0}, {"cell": 0}, {"cell": 17}, {"cell": 5.0}, {"cell": True}, {"widths": (16,)},
    {"widths": (16, 24, 32)}, {"widths": (4, 8)}, {"widths": "ab"}, {"widths": (16.0, 24)}, {"widths": None},
], ids=str)
def test_invalid_configurations_name_the_field(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        CompactConfig(**changes)


def test_every_parameter_gets_a_gradient():
    model = CompactMIRNet()
    model(torch.rand(1, 3, 40, 40)).square().mean().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_mcu_is_small():
    assert parameter_count(CompactMIRNet()) == 21_785

"""Compact networks: an independent second implementation, the colour maps, sizes and configurations."""
from __future__ import annotations

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
    cells = image.reshape(b, c, h // s, s, w // s, s).permute(0, 1, 3, 5, 2, 4).reshape(b, c * s * s, h // s, w // s)
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


@pytest.mark.parametrize("channels", [3, 1])
def test_maps_are_a_colour_matrix_of_levels_and_roots_and_an_offset(channels):
    model = CompactMIRNet(CompactConfig(in_channels=channels, cell=4)).double()
    image = torch.rand(2, channels, 8, 12, dtype=torch.float64)
    assert torch.equal(model.restore(image, torch.zeros(2, model.config.maps, 2, 3)), image)
    cell = 0.2 * torch.randn(model.config.maps, dtype=torch.float64)
    matrix = torch.eye(channels, dtype=torch.float64)
    matrix[~torch.eye(channels, dtype=torch.bool)] = cell[channels:channels * channels]
    gain, root_gain = (4 * cell[:channels]).exp(), cell[-channels:]
    raised = gain[:, None, None] * image + root_gain[:, None, None] * image.sqrt()
    expected = torch.einsum("cd,bdhw->bchw", matrix, raised)
    expected = expected + cell[channels * channels:channels * (channels + 1), None, None]
    output = model.restore(image, cell[None, :, None, None].expand(2, -1, 2, 3))
    torch.testing.assert_close(output, expected)


def test_maps_are_enlarged_as_torch_does():
    model = CompactMIRNet(CompactConfig(in_channels=1))
    maps = torch.zeros(1, 3, 4, 6)
    maps[:, 1] = torch.rand(4, 6)  # offsets alone: the restored image is the image and the enlarged map
    expected = F.interpolate(maps[:, 1:2], scale_factor=5, mode="bilinear")
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

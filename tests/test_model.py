"""The published network: rows, sharing and golden outputs; sizes, types and configurations."""
from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import DATA, filled, golden

from mirnet_torch import CompactConfig, MIRNet, MIRNetConfig, create_model, parameter_count
from mirnet_torch.checkpoint import alias_rows

TINY = MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1)


@pytest.mark.parametrize("keys, config, parameters", [
    ("paper", {}, 31_787_419),
    ("small", {"n_feat": 16, "n_RRG": 1, "n_MSRB": 1}, 333_392),
])
def test_state_dict_has_the_published_rows_order_shapes_and_sharing(keys, config, parameters):
    rows = json.loads((DATA / f"{keys}_keys.json").read_text())
    model = MIRNet(MIRNetConfig(**config))
    ours = [[name, list(row.shape)] for name, row in model.state_dict().items()]
    assert ours == [[name, shape] for name, shape, _ in rows]
    first_of_storage = {}
    for name, row in model.state_dict().items():
        first_of_storage.setdefault(row.untyped_storage().data_ptr(), name)
    for name, _, alias_of in rows:
        first = first_of_storage[model.state_dict()[name].untyped_storage().data_ptr()]
        assert first == (alias_of or name)
        assert alias_rows(model)[name] == first
    assert parameter_count(model) == parameters


@pytest.mark.parametrize("name", ["small_32x48", "paper_64x64"])
def test_golden_outputs(name):
    model, arrays = golden(name)
    image = torch.from_numpy(arrays["input"])
    with torch.inference_mode():
        assert np.abs(model(image).numpy() - arrays["output"]).max() <= 3e-5
        assert np.abs(model.double()(image.double()).numpy() - arrays["output_float64"]).max() <= 1e-9


def test_memory_format_changes_nothing_but_rounding():
    model, arrays = golden("small_32x48")
    image = torch.from_numpy(arrays["input"])
    with torch.inference_mode():
        last = model.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    np.testing.assert_allclose(last.numpy(), arrays["output"], rtol=0, atol=3e-5)


# The network once more, straight from the description of the published one: no classes, no modules, only rows.
# It knows every number of streams, columns, blocks and channels, with and without bias.
def published(rows, image, config):
    def conv(name, x, **options):
        return F.conv2d(x, rows[f"{name}.weight"], rows.get(f"{name}.bias"), **options)

    def same(name, x):
        return conv(name, x, padding=rows[f"{name}.weight"].shape[-1] // 2)

    def prelu(name, x):
        return torch.where(x > 0, x, rows[f"{name}.weight"] * x)

    def blur(name, x):
        kernel = torch.tensor([[1., 2, 1], [2, 4, 2], [1, 2, 1]], dtype=x.dtype) / 16
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return torch.cat([F.conv2d(padded[:, c:c + 1], kernel[None, None], stride=2) for c in range(x.shape[1])], 1)

    def down(name, x):
        top = prelu(f"{name}.top.3", same(f"{name}.top.2", prelu(f"{name}.top.1", conv(f"{name}.top.0", x))))
        return conv(f"{name}.top.5", blur(name, top)) + conv(f"{name}.bot.1", blur(name, x))

    def up(name, x):
        top = prelu(f"{name}.top.1", conv(f"{name}.top.0", x))
        top = F.conv_transpose2d(top, rows[f"{name}.top.2.weight"], stride=2, padding=1, output_padding=1)
        bot = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return conv(f"{name}.top.4", prelu(f"{name}.top.3", top)) + conv(f"{name}.bot.1", bot)

    def chain(step, name, x, steps):
        for n in range(steps):
            x = step(f"{name}.body.{n}", x)
        return x

    def attention(name, x):
        body = same(f"{name}.body.2", prelu(f"{name}.body.1", same(f"{name}.body.0", x)))
        pooled = torch.cat([body.max(1, True).values, body.mean(1, True)], 1)
        spatial = body * torch.sigmoid(same(f"{name}.SA.spatial.conv", pooled))
        mean = F.relu(conv(f"{name}.CA.conv_du.0", body.mean((2, 3), True)))
        channel = body * torch.sigmoid(conv(f"{name}.CA.conv_du.2", mean))
        return x + conv(f"{name}.conv1x1", torch.cat([spatial, channel], 1))

    def fuse(name, streams):
        mean = sum(streams).mean((2, 3), True)
        squeezed = prelu(f"{name}.conv_du.1", conv(f"{name}.conv_du.0", mean))
        exps = [conv(f"{name}.fcs.{s}", squeezed).exp() for s in range(len(streams))]
        return sum(e * stream for e, stream in zip(exps, streams)) / sum(exps)

    def block(name, x):
        k, channels = config.height, [config.n_feat * 2 ** j for j in range(config.height)]

        def bring(stream, s, j):
            if s == j:
                return stream
            kind, step = ("down", down) if s < j else ("up", up)
            return chain(step, f"{name}.{kind}.{channels[s]}_{2 ** abs(s - j)}", stream, abs(s - j))

        streams = [attention(f"{name}.blocks.0.0", x)]
        for j in range(1, k):
            streams.append(attention(f"{name}.blocks.{j}.0", bring(streams[-1], j - 1, j)))
        for i in range(1, config.width):
            streams = [attention(f"{name}.blocks.{j}.{i}", fuse(f"{name}.selective_kernel.{j}", [
                bring(stream, s, j) for s, stream in enumerate(streams)])) for j in range(k)]
        full = [streams[0]] + [chain(up, f"{name}.last_up.{j}", streams[j], j) for j in range(1, k)]
        return x + same(f"{name}.conv_out", fuse(f"{name}.selective_kernel.0", full))

    x = same("conv_in", image)
    for r in range(config.n_RRG):
        group = x
        for m in range(config.n_MSRB):
            group = block(f"body.{r}.body.{m}", group)
        x = x + same(f"body.{r}.body.{config.n_MSRB}", group)
    return image + same("conv_out", x)


@pytest.mark.parametrize("changes", [
    {}, {"height": 2}, {"width": 3}, {"width": 1}, {"height": 4}, {"height": 1}, {"n_RRG": 2, "n_MSRB": 2},
    {"in_channels": 1, "out_channels": 1, "bias": True}, {"kernel_size": 5, "n_feat": 12, "bias": True},
], ids=str)
def test_other_configurations_equal_the_description(changes):
    config = replace(TINY, **changes)
    model = filled(MIRNet(config)).double()
    image = torch.rand(2, config.in_channels, 16, 24, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(model(image), published(model.state_dict(), image, config), rtol=0, atol=1e-10)


@pytest.mark.parametrize("config", [TINY, CompactConfig(), replace(TINY, in_channels=1, out_channels=1),
                                    CompactConfig(in_channels=1)], ids=["published", "mcu", "grey", "compact, grey"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (63, 65)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_any_size_and_type(config, size, dtype):
    image = torch.rand(3, config.in_channels, *size).to(dtype)
    with torch.inference_mode():
        output = create_model(config).to(dtype)(image)
    assert output.shape == image.shape and output.dtype == dtype
    assert output.isfinite().all()


def test_padding_keeps_what_it_does_not_touch():
    """A size that needs padding gives the picture of the padded image, cropped."""
    model = filled(MIRNet(TINY))
    image = torch.rand(1, 3, 30, 45)
    padded = F.pad(image, (0, 3, 0, 2), mode="replicate")
    with torch.inference_mode():
        assert torch.equal(model(image), model(padded)[..., :30, :45])


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 0, 8), (1, 3, 8, 8, 1)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        MIRNet(TINY)(torch.zeros(shape))


@pytest.mark.parametrize("changes", [
    {"in_channels": 0}, {"out_channels": 1}, {"n_feat": 7}, {"n_feat": "64"}, {"n_feat": 64.0}, {"kernel_size": 4},
    {"stride": 1}, {"stride": 3}, {"n_RRG": 0}, {"n_MSRB": -1}, {"height": 0}, {"height": 99}, {"width": 0},
    {"bias": 1}, {"width": True},
], ids=str)
def test_invalid_configurations_name_the_field(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        MIRNetConfig(**changes)


def test_the_forward_pass_is_core_and_restore():
    model = filled(MIRNet(TINY))
    image = torch.rand(1, 3, 8, 12)
    with torch.inference_mode():
        assert torch.equal(model(image), model.restore(image, model.core(model.to_core(image))))
    assert model.multiple == 4


def test_every_parameter_gets_a_gradient():
    model = MIRNet(TINY)
    model(torch.rand(1, 3, 32, 32)).square().mean().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]

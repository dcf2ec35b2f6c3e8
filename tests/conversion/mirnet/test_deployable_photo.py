"""The deployable form of `photo` in float64, and its file for pictures of any size in onnxruntime."""
from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conversion.bridge.chain import TOLERANCES
from conversion.mirnet import any_size, identities
from conversion.mirnet.compact import FusedStreams
from conversion.mirnet.equalise import equalised
from conversion.mirnet.photo import DeployablePhoto
from conversion.mirnet.prepare import default_size, picture_multiple, prepare
from conversion.pipeline import convert
from mirnet_torch import save_model
from mirnet_torch.cli import UserError
from mirnet_torch.compact import CompactMSRB
from mirnet_torch.photo import PhotoConfig, PhotoMIRNet
from mirnet_torch.restoration.full_size import box_filter, copy_size, maps_of_copy, sample

TOLERANCE = 1e-10
LARGE = 5e-5  # of large photographs: their copy is a sum of many float32 products
SMALL = PhotoConfig(detail=(8, 12, 16), n_MSRB=1)
CONFIGS = {"small": SMALL, "photo": PhotoConfig(), "two streams, grey": PhotoConfig(in_channels=1, detail=(8, 12)),
           "four streams, cells of 4": PhotoConfig(cell=4, detail=(8, 9, 10, 11), n_MSRB=1)}


def network(config: PhotoConfig = SMALL, *, std: float = 0.1) -> PhotoMIRNet:
    """An untrained network whose channels all differ in size and whose detail network changes the picture."""
    torch.manual_seed(0)
    model = PhotoMIRNet(config).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
        if parameter.ndim == 4:
            parameter.data *= torch.rand(len(parameter), 1, 1, 1, dtype=torch.float64) + 0.05
    return model.requires_grad_(False)


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


def picture(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(height).random((1, channels, height, width))) ** 2


@pytest.mark.parametrize("block, side, bias", [(5, 1, True), (2, 3, True), (2, 3, False), (3, 5, True)])
def test_a_convolution_over_blocks_is_one_with_a_stride(block, side, bias):
    conv = nn.Conv2d(3 * block ** 2, 7, side, padding=side // 2, bias=bias).double()
    x = noise(1, 3, 6 * block, 4 * block)
    with torch.no_grad():
        difference = conv(F.pixel_unshuffle(x, block)) - identities.over_blocks(conv, block)(x)
    assert float(difference.abs().max()) < TOLERANCE


@pytest.mark.parametrize("bias", [False, True])
def test_blocks_come_back_phase_by_phase(bias):
    conv, x = nn.Conv2d(5, 12, 3, padding=1, bias=bias).double(), noise(1, 5, 6, 4)
    with torch.no_grad():
        difference = F.pixel_shuffle(conv(x), 2) - identities.DepthToSpace.apply(identities.by_phase(conv)(x))
    assert float(difference.abs().max()) < TOLERANCE


@pytest.mark.parametrize("widths", [(8, 12), (8, 9, 10), (8, 9, 10, 11)])
@pytest.mark.parametrize("known", [True, False], ids=["of one size", "of any size"])
def test_fused_streams(widths, known):
    block = CompactMSRB(widths).double().eval().requires_grad_(False)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = noise(1, 8, 24, 16)
    fused = FusedStreams(copy.deepcopy(block), (24, 16) if known else None)(x)
    assert float((block(x) - x - block.conv_out(fused)).abs().max()) < TOLERANCE
    assert float(fused.std()) > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_the_deployable_form_is_exact(name):
    model = network(CONFIGS[name])
    side = picture_multiple(model)
    image = picture(side, 2 * side, model.config.in_channels)
    expected = model(image).clamp(0, 1)
    assert float(((expected > 0) & (expected < 1)).double().mean()) > 0.3  # not only limits are compared
    assert float((model.restore(image, model.core(model.to_core(image))) - super(PhotoMIRNet, model).restore(
        image, model.core(model.to_core(image)))).std()) > 1e-3  # the detail network takes part
    for size in ((side, 2 * side), None):
        assert float((DeployablePhoto(model, size)(image) - expected).abs().max()) < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_equalising_changes_nothing_but_the_ranges(name):
    model = network(CONFIGS[name])
    image = picture(80, 80, model.config.in_channels)
    balanced = equalised(model, image)
    assert float((balanced(image) - model(image)).abs().max()) < TOLERANCE
    for part, before in ((balanced, model), (balanced.detail, model.detail)):
        assert not torch.equal(part.conv_in.weight, before.conv_in.weight)


def test_sides_suit_both_networks():
    assert picture_multiple(network()) == 40
    assert default_size(network()) == (480, 360)
    with pytest.raises(UserError, match="multiples of 40, the nearest is 520x400"):
        prepare(network(), (512, 384))


def test_photo_is_no_network_for_a_board(tmp_path):
    save_model(network().float(), tmp_path / "photo.safetensors")
    with pytest.raises(UserError, match="photo does not fit a microcontroller.*leave out --target arduino-tflm"):
        convert(tmp_path / "photo.safetensors", tmp_path / "out", target="arduino-tflm")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = network().float()
    path = tmp_path_factory.mktemp("any_size") / "photo.onnx"
    any_size.export_any_size(model, path, metadata={"name": "value"})
    return model, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_the_file_depends_on_its_network_only(tmp_path):
    for name in ("first.onnx", "second.onnx"):
        any_size.export_any_size(network().float(), tmp_path / name, metadata={"name": "value"})
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


def run(session, image: torch.Tensor, **others: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(session.run(None, {"image": image.float().numpy(), **others})[0])


@pytest.mark.parametrize("height, width", [(1, 1), (37, 53), (40, 80), (64, 64), (150, 97)])
@pytest.mark.parametrize("exposure", [0.0, -1.5])
def test_one_file_takes_pictures_of_any_size(exported, height, width, exposure):
    model, session = exported
    image = picture(height, width).float()
    expected = model(image, exposure=exposure).clamp(0, 1)
    restored = run(session, image, **({"exposure": np.array([exposure], np.float32)} if exposure else {}))
    assert restored.shape == image.shape
    assert float((restored - expected).abs().max()) <= TOLERANCES["ONNX, any size"].limit


def test_a_large_photograph_and_its_tiles_have_the_colours_of_the_copy(exported):
    """Of over 172,800 pixels the file makes the copy itself; a tile takes it as an input."""
    model, session = exported
    image = picture(440, 600).float()
    bright = recoloured(model, image)
    whole = model.refine(image, bright).clamp(0, 1)
    assert float((whole - bright.clamp(0, 1)).abs().max()) > 0.1  # the detail network takes part
    assert float((run(session, image) - whole).abs().max()) < LARGE
    assert float((model(image).clamp(0, 1) - whole).abs().max()) > 10 * LARGE  # the copy matters
    view = box_filter(image, *copy_size(440, 600)).numpy()
    rows, columns = slice(160, 440), slice(96, 296)
    tile = run(session, image[..., rows, columns], view=view, window=np.array([160, 96, 440, 600]))
    expected = model.refine(image[..., rows, columns], bright[..., rows, columns]).clamp(0, 1)
    assert float((tile - expected).abs().max()) < LARGE


def recoloured(model: PhotoMIRNet, image: torch.Tensor) -> torch.Tensor:
    """The photograph with the colours of its copy, before the detail network; see `full_size.apply_maps`."""
    factors = model.factors(maps_of_copy(model, image))
    down, across = ((torch.arange(side, dtype=torch.float64) + 0.5) * (copied / side / model.config.cell) - 0.5
                    for side, copied in zip(image.shape[-2:], copy_size(*image.shape[-2:])))
    return model.recolour(image, sample(sample(factors, across, -1), down, -2))

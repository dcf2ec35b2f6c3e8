"""`enhance` with a converted network: equal to PyTorch, and without it."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_one_error, run
from skimage import data
from torch import nn

from mirnet_torch import enhance
from mirnet_torch.cli import UserError
from mirnet_torch.enhance import main
from mirnet_torch.files.images import read_image, write_image
from mirnet_torch.photo import PhotoConfig, PhotoMIRNet
from mirnet_torch.restoration.converted import load_converted, shrink
from mirnet_torch.restoration.full_size import box_filter, copy_size
from mirnet_torch.runtimes import main as time_networks

pytest.importorskip("onnxruntime", reason="runs converted networks: the extra [convert]")
from conversion.bridge.onnx_export import export_onnx  # noqa: E402
from conversion.mirnet.any_size import export_any_size  # noqa: E402
from conversion.mirnet.photo import DeployablePhoto  # noqa: E402

ROOT = Path(__file__).parents[1]
DARK = data.astronaut()[:48, 200:264] // 4
# Importing PyTorch fails as it does where it is not installed.
WITHOUT = """
import sys

class Missing:
    names = {"torch", "torchvision", "safetensors", "onnx", "tensorflow", "ai_edge_litert", "skimage"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = PhotoMIRNet(PhotoConfig(detail=(8, 12, 16), n_MSRB=1)).eval()
    nn.init.normal_(model.detail.conv_out.weight, std=0.02)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    export_any_size(network, folder / "photo_any_size.onnx", metadata={})
    export_onnx(DeployablePhoto(network, (40, 80)), folder / "fixed.onnx", input_shape=(40, 80, 3), metadata={})
    export_onnx(nn.Conv2d(75, 15, 1), folder / "core.onnx", input_shape=(8, 16, 75), metadata={})
    return folder


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether pictures are equal up to rounding: one level, in one pixel of a thousand."""
    difference = np.abs(a.astype(int) - b.astype(int))
    white = np.iinfo(a.dtype).max
    return a.dtype == b.dtype and a.shape == b.shape and difference.max() <= max(white // 255 // 8, 1) and \
        (difference > white // 2 ** 14).mean() < 1e-3


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "grey", "one pixel"])
@pytest.mark.parametrize("exposure", [0.0, 1.0])
def test_pictures_equal_those_of_pytorch(network, files, kind, exposure):
    picture = {"8 bits": DARK, "16 bits": DARK.astype(np.uint16) * 257 + 13, "grey": DARK[..., 1],
               "one pixel": DARK[:1, :1]}[kind]
    restored = load_converted(files / "photo_any_size.onnx")(picture, exposure=exposure)
    assert close(restored, enhance(network, picture, exposure=exposure))


def test_a_large_photograph_equals_that_of_pytorch(network, files):
    """It goes in tiles there too, with the colours of a copy."""
    picture = np.tile(data.astronaut(), (1, 2, 1))[:431, :701] // 3
    picture[:, 400:] //= 2
    restored = load_converted(files / "photo_any_size.onnx")(picture)
    expected = enhance(network, picture)
    assert close(restored, expected) and not close(expected, enhance(network, picture, tile=0))


@pytest.mark.parametrize("height, width, pixels", [(431, 701, 240_000), (37, 90, 500), (20, 30, 600), (9, 7, 1)])
def test_the_copy_equals_that_of_pytorch(height, width, pixels, monkeypatch):
    monkeypatch.setattr("mirnet_torch.restoration.full_size.COPY_PIXELS", pixels)
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None]
    expected = box_filter(planes, *copy_size(height, width))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shrink(picture, pixels), expected, atol=2e-6)


def without_torch(folder: Path, *words: str | Path) -> subprocess.CompletedProcess:
    (folder / "sitecustomize.py").write_text(WITHOUT)
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *map(str, words)], cwd=folder, env=environment, capture_output=True,
                          text=True)


@pytest.mark.parametrize("command", [["mirnet_torch.enhance"], ["mirnet_torch", "enhance"]], ids=" ".join)
def test_the_command_needs_no_pytorch(network, files, tmp_path, command):
    write_image(DARK, tmp_path / "dark.png")
    done = without_torch(tmp_path, "-m", *command, "dark.png", "--out", "out", "--compare", "--runtime", "onnx",
                         "--checkpoint", files / "photo_any_size.onnx")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert close(read_image(tmp_path / "out" / "dark.png"), enhance(network, DARK))


def test_without_pytorch_a_checkpoint_is_one_error(tmp_path):
    write_image(DARK, tmp_path / "dark.png")
    done = without_torch(tmp_path, "-m", "mirnet_torch.enhance", "dark.png", "--out", "out", "--checkpoint", "mcu")
    assert_one_error(done.returncode, done.stderr, "the checkpoint mcu needs PyTorch: pip install torch", ".onnx")
    assert not (tmp_path / "out").exists()


def test_what_a_file_cannot_take_is_one_error(files, tmp_path, capsys):
    write_image(DARK, tmp_path / "dark.png")

    def failed(*words: str, checkpoint: Path = files / "photo_any_size.onnx") -> tuple[int, str]:
        done = run(capsys, main, tmp_path / "dark.png", "--out", tmp_path / "out", "--checkpoint", checkpoint, *words)
        assert not (tmp_path / "out" / "dark.png").exists()
        return done.status, done.err

    assert_one_error(*failed(checkpoint=files / "fixed.onnx"), "takes pictures of 80x40 pixels only, this has 64x48",
                     "--size 64x48")
    assert_one_error(*failed(checkpoint=files / "core.onnx"), "no network from picture to picture")
    assert_one_error(*failed(checkpoint=tmp_path / "none.onnx"), "none.onnx does not exist")
    assert_one_error(*failed(checkpoint=tmp_path / "dark.png", *["--runtime", "onnx"]), "--runtime onnx does not run")
    assert_one_error(*failed("--runtime", "litert"), "does not run", ".tflite")
    assert_one_error(*failed("--runtime", "torch"), "--runtime torch does not run", "give a checkpoint")
    assert_one_error(*failed("--tile", "64"), "--tile needs PyTorch")
    assert_one_error(*failed("--frames"), "--frames needs PyTorch")
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    assert_one_error(*failed(checkpoint=tmp_path / "broken.onnx"), "broken.onnx cannot be run")


def test_a_file_of_one_size_has_no_exposure(files):
    with pytest.raises(ValueError, match="has no exposure"):
        load_converted(files / "fixed.onnx")(DARK[:40, :1].repeat(80, 1), exposure=1.0)
    with pytest.raises(UserError, match="does not exist"):
        load_converted(files / "none.tflite")


def test_a_fixed_size_equals_pytorch(network, files):
    picture = np.tile(DARK, (1, 2, 1))[:40, :80]
    assert close(load_converted(files / "fixed.onnx")(picture), enhance(network, picture))


def test_networks_are_timed_side_by_side(files, capsys):
    done = run(capsys, time_networks, "mcu", files / "photo_any_size.onnx", "--size", "40x30", "--rounds", "2")
    assert done.status in (0, None) and done.out.startswith("40x30, 2 runs in turn")
    assert [line.split()[-1].rpartition("/")[2] for line in done.out.splitlines()[1:]] == ["mcu", "photo_any_size.onnx"]


def test_the_package_s_enhance_is_the_function_whatever_is_imported_first():
    program = ("import mirnet_torch.enhance, mirnet_torch; from mirnet_torch import enhance; "
               "assert enhance.__name__ == 'enhance' and callable(enhance) and callable(mirnet_torch.enhance)")
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("arguments, words", [(["mcu", "--rounds", "0"], "--rounds: must be 1 or more, not 0"),
                                              (["absent.onnx"], "absent.onnx does not exist")], ids=str)
def test_wrong_options_of_the_timing_get_one_line(capsys, arguments, words):
    result = run(capsys, time_networks, *arguments)
    assert_one_error(result.status, result.err, words)


def test_a_converted_network_takes_arrays_only(files):
    converted = load_converted(files / "photo_any_size.onnx")
    with pytest.raises(ValueError, match="an array and an exposure only"):
        enhance(converted, np.zeros((40, 60, 3), np.uint8), strength=0.5)

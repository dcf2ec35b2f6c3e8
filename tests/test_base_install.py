"""What a base install answers, without the packages of any extra: every --help, and one line that names the extra."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import assert_one_error
from skimage import data

from mirnet_torch.files.images import write_image

ROOT = Path(__file__).parents[1]
# Importing what the extras install fails as it does where they are not installed.
WITHOUT = """
import sys

class Missing:
    names = {"torchvision", "skimage", "tensorboard", "onnx", "onnxsim", "onnx2tf", "tensorflow", "onnxruntime",
             "ai_edge_litert", "tflite_micro", "jinja2", "serial", "lpips", "av", "pillow_heif", "rawpy", "scipy"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def base(tmp_path: Path, *words: str) -> subprocess.CompletedProcess:
    """Run a module or a script as in a base install."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("command", ["mirnet_torch.enhance", "mirnet_torch.train", "mirnet_torch.evaluate",
                                     "mirnet_torch.flicker", "mirnet_torch.benchmark", "conversion.to_tflite",
                                     "conversion.judge", "conversion.compare"])
def test_help_needs_no_extra(tmp_path, command):
    done = base(tmp_path, "-m", command, "--help")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage: ")


@pytest.mark.parametrize("words, purpose, package, extra", [
    (["-m", "mirnet_torch.train"], "training", "skimage", "train"),
    (["-m", "mirnet_torch.train", "--resume", "run"], "training", "skimage", "train"),
    (["-m", "mirnet_torch.evaluate"], "evaluating", "skimage", "train"),
    (["-m", "conversion.to_tflite", "--checkpoint", "mcu", "--out", "out"], "the conversion", "skimage", "convert"),
    (["-m", "mirnet_torch.flicker"], "measuring flicker", "skimage", "train"),
    (["-m", "mirnet_torch.enhance", "a.mp4", "--out", "b.mp4"], "enhancing a video", "av", "video"),
    (["-m", "conversion.judge", "--out", "out"], "judging", "skimage", "convert"),
    (["-m", "conversion.compare", "mcu", "x.onnx"], "comparing artefacts", "skimage", "convert"),
    ([f"{ROOT}/conversion/to_tflite.py", "--checkpoint", "mcu", "--out", "out"], "the conversion", "skimage",
     "convert"),
])
def test_a_command_names_the_extra_it_needs(tmp_path, words, purpose, package, extra):
    done = base(tmp_path, *words)
    assert_one_error(done.returncode, done.stderr, f"{purpose} needs the package {package}: pip install ", f"[{extra}]")
    assert done.returncode == 2 and done.stdout == ""
    assert sorted(os.listdir(tmp_path)) == ["sitecustomize.py"]


def test_the_base_enhances(tmp_path):
    write_image(data.astronaut()[:48, 200:264] // 4, tmp_path / "dark.png")
    for name in ("a.heic", "b.dng"):
        (tmp_path / name).write_bytes(b"")
    done = base(tmp_path, "-m", "mirnet_torch.enhance", "dark.png", "a.heic", "b.dng", "--checkpoint", "mcu", "--out",
                "out")
    assert_one_error(done.returncode, done.stderr, "2 of 3 inputs")
    for name, package, extra in (("a.heic", "pillow_heif", "heic"), ("b.dng", "rawpy", "raw")):
        assert f"not enhanced: reading {name} needs the package {package}: pip install " in done.stderr
        assert f"[{extra}]" in done.stderr
    assert os.listdir(tmp_path / "out") == ["dark.png"]


def test_a_package_that_is_damaged_is_one_error(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("from torchvision import nothing_of_this_name\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "mirnet_torch.train", "--preset", "mcu", "--val-size", "40x30",
                           "--out", "run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert_one_error(done.returncode, done.stderr, "nothing_of_this_name", "install it again")

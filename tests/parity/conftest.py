"""One conversion of each preset for the whole suite, and the parity table at the end of the run."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from golden import filled

from conversion.deploy import DeployableMIRNet, deployable
from conversion.equalise import equalised
from conversion.frames import calibration_frames, paired_frames, require_disjoint
from conversion.onnx_export import export_onnx
from conversion.parity import Difference, Stage, compare, images_to_core, nchw, open_stage
from conversion.tflite import TFLiteFiles, to_tflite
from mirnet_torch.model import MIRNet, MIRNetConfig

SIZES = {"mcu": (120, 160), "paper": (32, 32)}  # (height, width)
TABLE: list[tuple[str, str, str, str]] = []  # network, link, figures of today, bar


@dataclass
class Chain:
    """A network with the deterministic weights and everything that was made from it, with real pictures to run."""

    name: str
    model: MIRNet
    deployed: DeployableMIRNet
    onnx: Path
    files: TFLiteFiles
    dark: np.ndarray  # float32 (N, H, W, C) in [0, 1]; none of them was calibrated on
    core: np.ndarray  # the same as core inputs
    _stages: dict[str, Stage] = field(default_factory=dict)
    _outputs: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        if name not in self._stages:
            source = {"PyTorch": self.model, "deployable": self.deployed, "ONNX": self.onnx}.get(name)
            if source is not None:
                self._stages[name] = open_stage(source, size=(self.deployed.height, self.deployed.width))
            else:
                kind, _, runtime = name.partition("@")
                self._stages[name] = open_stage(getattr(self.files, kind), runtime=runtime or "litert")
        return self._stages[name]

    def difference(self, a: str, b: str, *, raw: bool = False) -> Difference:
        """Compare the outputs of two stages on all pictures."""
        for name in (a, b):
            if name not in self._outputs:
                codes = self.stage(name).run_raw(self.core)
                self._outputs[name] = (codes, self.stage(name).real(codes))
        return compare(self._outputs[a][not raw], self._outputs[b][not raw])

    def row(self, a: str, b: str, figures: str, bar: str) -> None:
        TABLE.append((self.name, f"{a} -> {b}", figures, bar))


@pytest.fixture(scope="session")
def chains(tmp_path_factory) -> dict[str, Chain]:
    return {}


@pytest.fixture(params=list(SIZES))
def chain(request, chains, tmp_path_factory) -> Chain:
    name = request.param
    if name not in chains:
        chains[name] = _convert(name, tmp_path_factory.mktemp(name))
    return chains[name]


@pytest.fixture
def mcu(chains, tmp_path_factory) -> Chain:
    if "mcu" not in chains:
        chains["mcu"] = _convert("mcu", tmp_path_factory.mktemp("mcu"))
    return chains["mcu"]


def _convert(name: str, folder: Path) -> Chain:
    height, width = SIZES[name]
    model = filled(MIRNet(MIRNetConfig.preset(name)))
    calibration = calibration_frames(None, size=(width, height), channels=3).pick(6)
    pictures = paired_frames(None, size=(width, height), channels=3).pick(6 if name == "mcu" else 1)
    require_disjoint(calibration, pictures)
    deployed = deployable(equalised(model, nchw(_real(calibration.dark))), height=height, width=width)
    export_onnx(deployed, folder / f"{name}.onnx", metadata={"preset": name})
    files = to_tflite(folder / f"{name}.onnx", folder, calibration=images_to_core(deployed, _real(calibration.dark)))
    dark = _real(pictures.dark)
    return Chain(name, model, deployed, folder / f"{name}.onnx", files, dark, images_to_core(deployed, dark))


def _real(frames: np.ndarray) -> np.ndarray:
    return frames.astype(np.float32) / 255


def pytest_terminal_summary(terminalreporter) -> None:
    if TABLE:
        terminalreporter.section("parity today")
        widths = [max(len(row[i]) for row in TABLE) for i in range(4)]
        for row in TABLE:
            terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())

"""One conversion of each preset for the whole suite."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from golden import filled
from parity_table import TABLE

from conversion.bridge.chain import TOLERANCES, Artefacts, Link, Row, Tolerance, compare_stages, stages
from conversion.bridge.runtimes import Stage
from conversion.frames import calibration_frames, paired_frames, require_disjoint
from conversion.mirnet.prepare import Prepared, prepare
from conversion.pipeline import bridge_convert
from mirnet_torch.presets import create_model

SIZES = {"mcu": (160, 120), "paper": (32, 32)}  # (width, height)
TARGETS = {"mcu": "arduino-tflm", "paper": "litert"}


@dataclass
class Chain:
    """A network with the deterministic weights and everything that was made from it, with real pictures to run."""

    name: str
    prepared: Prepared
    artefacts: Artefacts
    dark: np.ndarray  # float32 (N, H, W, C) in [0, 1]; none of them was calibrated on
    core: np.ndarray  # the same as core inputs
    rows: dict[str, Row] = field(default_factory=dict)  # of every stage
    links: dict[str, Link] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        return self.links[name].open()

    def report(self, name: str, figures: str, *, tolerance: Tolerance | None = None, note: str = "") -> None:
        row = self.rows[name]
        limit = tolerance or TOLERANCES.get(name)
        TABLE.append((self.name, f"{row.before} -> {name}", figures, note or str(limit)))


@pytest.fixture(scope="session")
def chains(tmp_path_factory) -> dict[str, Chain]:
    return {}


@pytest.fixture(params=list(SIZES))
def chain(request, chains, tmp_path_factory) -> Chain:
    return _chain(request.param, chains, tmp_path_factory)


@pytest.fixture
def mcu(chains, tmp_path_factory) -> Chain:
    return _chain("mcu", chains, tmp_path_factory)


def _chain(name, chains, tmp_path_factory) -> Chain:
    if name not in chains:
        chains[name] = _convert(name, tmp_path_factory.mktemp(name))
    return chains[name]


def _convert(name: str, folder: Path) -> Chain:
    model, size = filled(create_model(name)), SIZES[name]
    calibration = calibration_frames(None, size=size, channels=3).pick(6)
    pictures = paired_frames(None, size=size, channels=3).pick(6 if name == "mcu" else 1)
    require_disjoint(calibration, pictures)
    prepared = prepare(model, size, _real(calibration.dark))
    artefacts = bridge_convert(prepared, calibration, folder, target=TARGETS[name], name=name,
                               metadata={"preset": name})
    dark = _real(pictures.dark)
    core = prepared.to_core(dark)
    links = stages(prepared.network, prepared.input_shape, artefacts, original=(model, "core"))
    return Chain(name, prepared, artefacts, dark, core, {row.stage: row for row in compare_stages(links, core)},
                 {link.name: link for link in links})


def _real(frames: np.ndarray) -> np.ndarray:
    return frames.astype(np.float32) / 255

"""Deterministic weights and golden outputs: how a network of any size is compared without shipping its weights.

The files in tests/data hold, for the published network and a small one, the rows of the reference's state dict
(`*_keys.json`: name, shape, first row with the same storage) and its input and outputs with the weights of `filled`.
"""
from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from mirnet_torch.checkpoint import alias_rows, save_model
from mirnet_torch.model import MIRNet, MIRNetConfig
from mirnet_torch.presets import Network, create_model

DATA = Path(__file__).parent / "data"


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 weights that belong to a row's name: normal, scaled by fan-in; slopes lie around 0.25."""
    v = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) >= 2:
        v = v / np.sqrt(np.prod(shape[1:]))
    elif shape == (1,):
        v = 0.25 + 0.05 * v
    else:
        v = 0.01 * v
    return v.astype(np.float32)


def filled(model: Network) -> Network:
    """Give a network the deterministic weights, in place (rows that share storage those of the first row's name)."""
    rows = model.state_dict()
    for name, first in alias_rows(model).items():
        if name == first and not name.endswith(".filt"):
            rows[name].copy_(torch.from_numpy(values(name, tuple(rows[name].shape))))
    return model.eval()


def save_random_mcu(path: Path, *, seed: int) -> Path:
    """Write an untrained `mcu` whose maps are as large as those of a trained one; return the path."""
    torch.manual_seed(seed)
    model = create_model("mcu")
    with torch.no_grad():
        model.conv_out.weight *= 8
    save_model(model, path)
    return path


def golden(name: str) -> tuple[MIRNet, dict[str, np.ndarray]]:
    """Return a filled network of a golden file's configuration, and the file's arrays."""
    arrays = dict(np.load(DATA / f"{name}.npz"))
    config = MIRNetConfig(**json.loads(str(arrays["config"])))
    return filled(MIRNet(config)), arrays

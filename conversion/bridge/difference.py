"""Compare two arrays, or all tensors of two stages."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from conversion.bridge.graph import module_of
from conversion.bridge.runtimes import Stage


@dataclass(frozen=True)
class Difference:
    """How far array b is from array a (the reference)."""

    max: float  # largest |a - b|
    mean: float  # mean |a - b|
    sqnr_db: float  # 10 log10(sum a^2 / sum (a - b)^2); inf when equal
    where: tuple[int, ...]  # index of the largest difference
    differing: int  # elements that are not equal
    size: int

    def __str__(self) -> str:
        if not self.differing:
            return f"equal ({self.size} elements)"
        return (f"max {self.max:.3g} at {self.where}, mean {self.mean:.3g}, SQNR {self.sqnr_db:.1f} dB, "
                f"{self.differing} of {self.size} elements differ")


def compare(a: np.ndarray, b: np.ndarray) -> Difference:
    """Compare array b with the reference a, of the same shape; differences of int8 arrays are in steps.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    error = np.abs(a.astype(np.float64) - b.astype(np.float64))
    noise = float((error ** 2).sum())
    signal = float((a.astype(np.float64) ** 2).sum())
    sqnr = np.inf if noise == 0 else 10 * np.log10(signal / noise) if signal > 0 else -np.inf
    where = np.unravel_index(int(np.where(np.isnan(error), np.inf, error).argmax()), a.shape)
    return Difference(float(error.max()), float(error.mean()), float(sqnr), tuple(int(i) for i in where),
                      int(np.count_nonzero(a != b)), a.size)


@dataclass(frozen=True)
class LayerDifference:
    """One tensor that both stages have."""

    a: str  # its name in stage a
    b: str
    module: str  # the PyTorch module it comes from ("body.0.body.0.blocks.0.0.body.0"), "" if unknown
    shape: tuple[int, ...]  # NHWC
    difference: Difference
    step: float = 0.0  # quantisation step of b's tensor, 0.0 if b is float


def layerwise(a: Stage, b: Stage, core: np.ndarray) -> list[LayerDifference]:
    """Compare all tensors that two stages have in common, in execution order of a, on one core input (1, h, w, c).

    Tensors are matched by name. A tensor that only one stage has is left out: for example the result of a convolution
    whose activation is fused in the other stage, or one of two equal modules that were merged.

    Raises:
        NotImplementedError: one of the runtimes cannot return its intermediate tensors.
    """
    of_a, of_b, steps = a.tensors(core), b.tensors(core), b.steps()
    return [LayerDifference(name, name, module_of(name), tensor.shape, compare(tensor, of_b[name]),
                            steps.get(name, 0.0))
            for name, tensor in of_a.items() if name in of_b and of_b[name].shape == tensor.shape]


def first_diverging(layers: Sequence[LayerDifference], *, atol: float) -> LayerDifference | None:
    """Return the first layer whose largest difference is above `atol` or NaN; None if there is none."""
    return next((layer for layer in layers if not layer.difference.max <= atol), None)

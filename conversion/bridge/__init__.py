"""The bridge: a PyTorch module -> ONNX -> TFLite -> C arrays, every stage compared with the one before.

    from conversion.bridge import convert

    artefacts = convert(network, (24, 32, 75), calibration, "build/net", target="arduino-tflm")

It works on any module with an input shape, depends on no network, and imports nothing of `mirnet_torch` but `cli`. Its
limits: the module takes one tensor (1, C, H, W) with values in [0, 1] and returns one 4-D tensor of any range; it is
made of convolutions, pools, sums, products, concatenations and the like. It is not a general converter.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conversion.bridge.chain import Artefacts, convert

__all__ = ["Artefacts", "convert"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported on first use: the subprocess that runs TensorFlow does not need it
        from conversion.bridge import chain

        return getattr(chain, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

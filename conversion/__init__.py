"""From a PyTorch checkpoint to a tested int8 TFLite model and its C arrays.

    from conversion import convert

Importing this package is quick: TensorFlow and the other libraries are imported when `convert` is first used.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conversion.pipeline import Conversion, convert

__all__ = ["Conversion", "convert"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from conversion import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

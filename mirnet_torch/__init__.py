"""MIRNet in PyTorch: build it, load it, train it, use it on photographs.

    from mirnet_torch import create_model, enhance, load_model
"""
__version__ = "0.2.0"

import importlib
import os
import signal
import sys
import types
from typing import TYPE_CHECKING, Any


def _is_command(program: str, original: list[str]) -> bool:
    """Return whether a command of this project is starting, not a program of others that imports this package.

    Args:
        program: `sys.argv[0]`, which is "-m" while `python -m` imports a package.
        original: `sys.orig_argv`.
    """
    if program == "-m":
        module = original[original.index("-m") + 1] if "-m" in original[:-1] else ""
        return module.partition(".")[0] in ("mirnet_torch", "conversion")
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.path.basename(program) == "mirnet" or \
        os.path.dirname(os.path.abspath(program)) == os.path.join(root, "conversion")


# Until `cli.run_command` takes over, Ctrl-C ends a command without a traceback.
if _is_command(sys.argv[0] if sys.argv else "", sys.orig_argv):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

if TYPE_CHECKING:
    from mirnet_torch.checkpoint import CheckpointError, load_model, save_model
    from mirnet_torch.compact import CompactConfig, CompactMIRNet
    from mirnet_torch.model import MIRNet, MIRNetConfig, parameter_count
    from mirnet_torch.presets import PRESETS, create_model
    from mirnet_torch.restoration.picture import enhance

# Each is imported when it is first used: PyTorch takes seconds, and `enhance` with a converted network needs none.
_MODULES = {"CheckpointError": "checkpoint", "load_model": "checkpoint", "save_model": "checkpoint",
            "CompactConfig": "compact", "CompactMIRNet": "compact", "enhance": "restoration.picture", "MIRNet": "model",
            "MIRNetConfig": "model", "parameter_count": "model", "PRESETS": "presets", "create_model": "presets"}
__all__ = ["CheckpointError", "CompactConfig", "CompactMIRNet", "MIRNet", "MIRNetConfig", "PRESETS", "create_model",
           "enhance", "load_model", "parameter_count", "save_model"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


class _Package(types.ModuleType):
    """This package: its `enhance` is the function, though importing the module `enhance` sets that name too."""

    @property
    def enhance(self) -> Any:  # noqa: F811
        return __getattr__("enhance")

    @enhance.setter
    def enhance(self, module: types.ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Package

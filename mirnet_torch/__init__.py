"""MIRNet in PyTorch: build it, load it, train it, use it on photographs.

    from mirnet_torch import MIRNet, MIRNetConfig, load_model, enhance
"""
__version__ = "0.1.0"

import warnings

# `python -m mirnet_torch.enhance` runs a module that the line below imports; runpy warns, though nothing is wrong.
warnings.filterwarnings("ignore", "'mirnet_torch", RuntimeWarning, "runpy")

from mirnet_torch.checkpoint import CheckpointError, load_model, save_model  # noqa: E402
from mirnet_torch.enhance import enhance  # noqa: E402
from mirnet_torch.model import PRESETS, MIRNet, MIRNetConfig, parameter_count  # noqa: E402

__all__ = ["CheckpointError", "MIRNet", "MIRNetConfig", "PRESETS", "enhance", "load_model", "parameter_count",
           "save_model"]

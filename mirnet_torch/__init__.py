"""MIRNet in PyTorch: build it, load it, train it, use it on photographs.

    from mirnet_torch import create_model, enhance, load_model
"""
__version__ = "0.1.0"

import warnings

# `python -m mirnet_torch.enhance` runs a module that is imported below. runpy warns of that; nothing is wrong.
warnings.filterwarnings("ignore", "'mirnet_torch", RuntimeWarning, "runpy")

from mirnet_torch.checkpoint import CheckpointError, load_model, save_model  # noqa: E402
from mirnet_torch.compact import CompactConfig, CompactMIRNet  # noqa: E402
from mirnet_torch.enhance import enhance  # noqa: E402
from mirnet_torch.model import MIRNet, MIRNetConfig, parameter_count  # noqa: E402
from mirnet_torch.presets import PRESETS, create_model  # noqa: E402

__all__ = ["CheckpointError", "CompactConfig", "CompactMIRNet", "MIRNet", "MIRNetConfig", "PRESETS", "create_model",
           "enhance", "load_model", "parameter_count", "save_model"]

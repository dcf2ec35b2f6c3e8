"""MIRNet in PyTorch: build it, load it, train it, use it on photographs.

    from mirnet_torch import create_model, enhance, load_model
"""
__version__ = "0.1.0"

import os
import signal
import sys
import warnings

# A command, not a program that uses this package: until `cli.run_command` takes over, Ctrl-C ends it without a
# traceback. `python -m` has this first argument while it imports a package.
if os.path.basename(sys.argv[0] if sys.argv else "") in ("-m", "mirnet") or os.path.basename(
        os.path.dirname(os.path.abspath(sys.argv[0] if sys.argv else ""))) == "conversion":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

# `python -m mirnet_torch.enhance` runs a module that is imported below. runpy warns of that; nothing is wrong.
warnings.filterwarnings("ignore", "'mirnet_torch", RuntimeWarning, "runpy")

from mirnet_torch.checkpoint import CheckpointError, load_model, save_model  # noqa: E402
from mirnet_torch.compact import CompactConfig, CompactMIRNet  # noqa: E402
from mirnet_torch.enhance import enhance  # noqa: E402
from mirnet_torch.model import MIRNet, MIRNetConfig, parameter_count  # noqa: E402
from mirnet_torch.presets import PRESETS, create_model  # noqa: E402

__all__ = ["CheckpointError", "CompactConfig", "CompactMIRNet", "MIRNet", "MIRNetConfig", "PRESETS", "create_model",
           "enhance", "load_model", "parameter_count", "save_model"]

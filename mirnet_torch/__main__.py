"""One command for all: `mirnet enhance|train|evaluate|convert|view|benchmark ...`, also as `python -m mirnet_torch`."""
from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn, Sequence

from mirnet_torch import __version__
from mirnet_torch.cli import UserError, run_command

# name: (the module whose main() runs, what it does)
COMMANDS = {
    "enhance": ("mirnet_torch.enhance", "brighten photographs and videos"),
    "train": ("mirnet_torch.train", "train a network on pairs of dark and bright images"),
    "evaluate": ("mirnet_torch.evaluate", "measure a network on pairs"),
    "convert": ("conversion.to_tflite", "convert a checkpoint to TFLite and C arrays"),
    "view": ("", "show what the board sees and makes of it; from a clone only"),
    "benchmark": ("mirnet_torch.benchmark", "measure the published network's speed and memory on this machine"),
}
VIEWER = Path(__file__).resolve().parent.parent / "firmware" / "viewer"
USAGE = "\n".join(["usage: mirnet COMMAND ...", "", *(f"  {name:10}{text}" for name, (_, text) in COMMANDS.items()), "",
                   "`mirnet COMMAND --help` describes a command."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command with its arguments (default: those of the process) and return its exit status.

    Raises:
        UserError: there is no such sub-command, or it is not part of this installation.
    """
    name, *others = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name == "--version":
        print(f"mirnet-torch {__version__}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}: give one of {', '.join(COMMANDS)}")
    if name == "view":
        _view(others)
    module = COMMANDS[name][0]
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise UserError(f"mirnet {name} needs the package {module.partition('.')[0]} of this project: install it again")
    if name == "convert":  # a conversion cleans up after SIGTERM as after Ctrl-C
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return importlib.import_module(module).main(others) or 0


def _view(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by the viewer, which is no part of the package."""
    if not VIEWER.is_dir():
        raise UserError("mirnet view works from a clone only, since the sketch and its viewer are not in the package: "
                        "clone the project, install it with pip install -e, and run it again")
    os.execv(sys.executable, [sys.executable, os.fspath(VIEWER), *arguments])


def entry() -> int:
    """Run the command `mirnet` and return its exit status."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(entry())

"""Where the sketch is, and how the tests run compilers and programs on it."""
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
SKETCH = FIRMWARE / "mirnet_nano33ble"
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(FIRMWARE / "viewer"))  # as `python firmware/viewer` has it

WARNINGS = ("-std=gnu++14", "-Wall", "-Wextra", "-Wconversion", "-Werror")


def need(tool: str) -> str:
    """Return the path of a program, or skip the test."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return path


def run(*command: object, **options: object) -> bytes:
    """Run a program and return what it writes; a failure shows all that it said."""
    result: subprocess.CompletedProcess[bytes] = subprocess.run(  # type: ignore[call-overload]
        [str(part) for part in command], capture_output=True, **options)
    said = result.stdout[-2000:].decode(errors="replace") + result.stderr.decode(errors="replace")
    assert result.returncode == 0, f"{command[0]}: {result.returncode}\n{said}"
    return result.stdout

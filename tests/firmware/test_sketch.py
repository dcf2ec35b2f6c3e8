"""The whole sketch with Arduino's own tools, where they are installed."""
from __future__ import annotations

import subprocess

import pytest
from sketch_tools import SKETCH, need

MISSING = ("not installed", "not found", "no such host", "dial tcp", "lookup ", "connect:")


@pytest.mark.parametrize("display", [0, 1])
def test_arduino_cli_compiles_the_sketch(tmp_path, display: int) -> None:
    flag = f"compiler.cpp.extra_flags=-DMIRNET_DISPLAY={display}"
    result = subprocess.run([need("arduino-cli"), "compile", "--profile", "nano33ble", "--warnings", "all",
                             "--build-property", flag, "--build-path", tmp_path, SKETCH],
                            capture_output=True, text=True)
    if result.returncode and any(sign in result.stderr for sign in MISSING):
        pytest.skip(f"arduino-cli lacks the platform or a library: {result.stderr.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stderr
    assert f"{SKETCH.name}/" not in result.stderr, "a warning in our own files"


def test_profile_pins_everything() -> None:
    text = (SKETCH / "sketch.yaml").read_text()
    assert "fqbn: arduino:mbed_nano:nano33ble" in text and "default_profile: nano33ble" in text
    entries = [line.strip() for line in text.splitlines() if line.strip().startswith("- ") and "(" in line]
    assert entries and all(any(c.isdigit() for c in entry.split("(")[1]) for entry in entries)

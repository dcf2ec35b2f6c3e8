"""A share of the fuzzing of `fuzz.py`; FUZZ_CASES=20000 in the environment runs the whole."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="judge and to_tflite need the extra [convert]")


def test_no_traceback_no_hang_and_less_than_2_gb():
    root = Path(__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)  # as a user runs it
    done = subprocess.run([sys.executable, root / "tests" / "fuzz.py", os.environ.get("FUZZ_CASES", "400")],
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""Where the sketch is, and how the tests run compilers and programs on it."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterable

import pytest

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
SKETCH = FIRMWARE / "mirnet_nano33ble"
HERE = Path(__file__).resolve().parent
EMULATOR = FIRMWARE / "emulator"
sys.path[:0] = [str(FIRMWARE / "viewer"), str(EMULATOR)]  # as `python firmware/viewer` has it

WARNINGS = ("-std=gnu++14", "-Wall", "-Wextra", "-Wconversion", "-Werror")


def need(tool: str) -> str:
    """Return the path of a program, or skip the test."""
    path = shutil.which(tool, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
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


def complaint(folder: Path, *sources: str, compiler: str = "g++", **constants: object) -> str:
    """Compile files of the sketch with other constants in model_data.h; return what the compiler says, "" if nothing.

    Args:
        folder: where to put copies of the files.
        sources: names of files in the sketch.
        compiler: such as g++.
        constants: the new values of constants in model_data.h, as C++.
    """
    for path in (*SKETCH.glob("*.h"), *map(SKETCH.joinpath, sources)):
        shutil.copy(path, folder)
    set_constants(folder, **constants)
    (folder / "all.cpp").write_text("".join(f'#include "{name}"\n' for name in sources))
    return subprocess.run([need(compiler), *WARNINGS, "-fsyntax-only", "-I", HERE / "arduino", folder / "all.cpp"],
                          capture_output=True, text=True).stderr


def constants_of(sketch: Path) -> dict[str, float]:
    """Return the numbers in a sketch's model_data.h."""
    return {name: float(value.rstrip("f")) for name, value in
            re.findall(r"constexpr \S+ (k\w+) = (-?[\d.]+(?:e-?\d+)?f?);", (sketch / "model_data.h").read_text())}


def set_constants(sketch: Path, **constants: object) -> None:
    """Change numbers in a sketch's model_data.h."""
    header = (sketch / "model_data.h").read_text()
    for name, value in constants.items():
        header, found = re.subn(rf"( {name} = )[^;]+;", rf"\g<1>{value};", header)
        assert found == 1, f"model_data.h has no {name}"
    (sketch / "model_data.h").write_text(header)


def set_arrays(source: Path, **arrays: Iterable[object]) -> None:
    """Change the contents of arrays in a generated C++ file."""
    text = source.read_text()
    for name, entries in arrays.items():
        text, found = re.subn(rf"({name}\[\w+\] = ){{[^}}]*}}", rf"\g<1>{{{','.join(map(str, entries))}}}", text)
        assert found == 1, f"{source} has no {name}"
    source.write_text(text)

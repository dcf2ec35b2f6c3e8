"""TensorFlow Lite Micro for Arduino on an emulated Cortex-M4: how many instructions does every operator take?

The library is compiled by arm-none-eabi-g++ with the flags of the board's platform (arduino:mbed_nano, cflags.txt and
cxxflags.txt of its ARDUINO_NANO33BLE variant) and linked with `counts_main.cpp` and the sketch's own kernels. QEMU runs
it on mps2-an386 and lets every instruction take the same time, so that the machine's timer counts instructions. Nothing
here knows how many cycles an instruction takes on silicon.

A library is compiled once for each level of optimisation and kept, under a name that its content decides.
"""
from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np

HERE = Path(__file__).resolve().parent
SKETCH = HERE.parent / "mirnet_nano33ble"
BUILD = HERE.parents[1] / "build" / "emulator"
LEVELS = ("Os", "O2")  # as Arduino builds; as firmware/README.md says how to
COMMIT = "7948b85e020470a30a83bf00e10fc43b486bfcba"  # of the library
GET_LIBRARY = "git clone https://github.com/tensorflow/tflite-micro-arduino-examples"
GET_COMPILER = "apt install gcc-arm-none-eabi libnewlib-arm-none-eabi libstdc++-arm-none-eabi-newlib"

CPU = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=softfp", "-mfpu=fpv4-sp-d16")
BOARD = (*CPU, "-fno-exceptions", "-fdata-sections", "-ffunction-sections", "-funsigned-char", "-fmessage-length=0",
         "-fno-delete-null-pointer-checks", "-fomit-frame-pointer")
LIBRARY = (*BOARD, "-DARDUINO=10607", "-DARDUINO_ARDUINO_NANO33BLE", "-w")
STANDARD = {".c": ("-std=gnu11",), ".cpp": ("-std=gnu++14", "-fno-rtti")}
QEMU = ("qemu-system-arm", "-machine", "mps2-an386", "-icount", "shift=6", "-display", "none", "-monitor", "none",
        "-serial", "none", "-semihosting-config", "enable=on,target=native", "-kernel")

# Of the library: what needs the real board, what is for tests, and what runs no model.
LEFT_OUT = ("all_ops_resolver", "fake_micro_context", "micro_profiler", "micro_time", "mock_micro_graph",
            "recording_micro_allocator", "recording_single_arena_buffer_allocator", "system_setup", "test_helpers",
            "test_helper_custom_ops")


class EmulatorError(Exception):
    """Something is missing or does not fit; the message is one line that names the thing and the fix."""


@dataclass(frozen=True)
class Counted:
    """What one run of a model took."""

    operators: tuple[tuple[str, int], ...]  # name, instructions; in the order in which they ran
    invoke: int  # instructions of MicroInterpreter::Invoke(), operators included
    arena_bytes: int
    outputs: bytes

    @property
    def total(self) -> int:
        """Instructions of all operators."""
        return sum(count for _, count in self.operators)

    def by_kind(self) -> dict[str, int]:
        """Sum the instructions of every kind of operator, the most expensive first."""
        kinds: dict[str, int] = {}
        for name, count in self.operators:
            kinds[name] = kinds.get(name, 0) + count
        return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def need(tool: str, get: str) -> str:
    """Return the path of a program.

    Raises:
        EmulatorError: it is not installed.
    """
    path = shutil.which(tool)
    if path is None:
        raise EmulatorError(f"{tool} is not installed: {get}")
    return path


def library_sources(library: Path) -> list[Path]:
    """List the sources of the library that a model can need, in the order in which arduino-cli links them.

    Raises:
        EmulatorError: the folder is not a clone of the library.
    """
    root = library / "src"
    if not (root / "tensorflow" / "lite" / "micro" / "micro_interpreter.cpp").is_file():
        raise EmulatorError(f"{library} is not a clone of the Arduino library: it has no src/tensorflow/lite/micro: "
                            f"{GET_LIBRARY}")
    found = [*(root / "tensorflow").rglob("*.c*"), *(root / "third_party" / "cmsis_nn").rglob("*.c")]
    return sorted((path for path in found if path.suffix in STANDARD and path.stem not in LEFT_OUT
                   and "experimental" not in path.parts), key=lambda path: f"{path}.o")


def build(library: str | os.PathLike[str], level: str, *, archive: bool = False, folder: Path | None = None,
          progress: Callable[[str], None] = lambda text: None) -> Path:
    """Compile the library and the program that counts, or return what was compiled of the same sources before.

    Args:
        library: a clone of the Arduino library.
        level: of optimisation, one of `LEVELS`.
        archive: link the library as an archive, from which the linker takes only the files that it needs, as
            PlatformIO does. arduino-cli links all files. It matters where several files hold a copy of one inline
            function: the first in the order of linking serves all files, and at -Os the copies differ.
        folder: where what is compiled is kept; None: `BUILD`.
        progress: is called with a line of text now and then.

    Raises:
        EmulatorError: this is no such library, there is no compiler, or the compiler refuses.
    """
    library = Path(library).expanduser()
    compilers = {suffix: need(f"arm-none-eabi-{name}", GET_COMPILER)
                 for suffix, name in ((".c", "gcc"), (".cpp", "g++"))}
    sources = library_sources(library)
    version = subprocess.run([compilers[".cpp"], "--version"], capture_output=True, check=True).stdout
    flags = (*LIBRARY, f"-{level}", "-I", str(library / "src"))
    key = _digest(version, repr((LIBRARY, STANDARD)).encode(), *_contents(library / "src", ("*.c", "*.cpp", "*.h")))
    objects = (folder or BUILD) / f"{level}-{key}"
    own = [HERE / "start.c", HERE / "counts_main.cpp", SKETCH / "kernels.cpp", SKETCH / "kernel_resolver.cpp"]
    own_key = _digest(*_contents(HERE, ("*.c", "*.cpp", "*.h", "*.ld")), *_contents(SKETCH, ("kernel*.*",)))
    program = objects / f"{'archive' if archive else 'counts'}-{own_key}.elf"
    if program.exists():
        return program

    def compiled(source: Path) -> Path:
        name = source.name if source in own else "_".join(source.relative_to(library / "src").parts)
        made = objects / f"{name}.o"
        if source in own or not made.exists():
            with tempfile.TemporaryDirectory(dir=objects) as temporary:
                part = Path(temporary) / "part.o"
                _call([compilers[source.suffix], *STANDARD[source.suffix], *flags, "-I", HERE, "-I", SKETCH, "-c",
                       source, "-o", part], f"{source} does not compile")
                os.replace(part, made)
        return made

    objects.mkdir(parents=True, exist_ok=True)
    sources = [*own, *sources]
    made = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path in pool.map(compiled, sources):
            made.append(path)
            if len(made) % 20 == 0:
                progress(f"-{level}: {len(made)} of {len(sources)} files compiled")
    with tempfile.TemporaryDirectory(dir=objects) as temporary:
        part = Path(temporary) / "part.elf"
        ours, theirs = made[:len(own)], made[len(own):]
        if archive:
            _call([need("arm-none-eabi-ar", GET_COMPILER), "rcs", Path(temporary) / "library.a", *theirs],
                  "the library cannot be archived")
            theirs = [Path(temporary) / "library.a"]
        _call([compilers[".cpp"], *CPU, *ours, *theirs, "-nostartfiles", "-T", HERE / "link.ld", "-Wl,--gc-sections",
               "--specs=nosys.specs", "-o", part], "the program does not link")
        os.replace(part, program)
    return program


def _contents(folder: Path, patterns: tuple[str, ...]) -> list[bytes]:
    return [str(path.relative_to(folder)).encode() + path.read_bytes()
            for pattern in patterns for path in sorted(folder.rglob(pattern))]


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:12]


def _call(command: list[object], failure: str) -> None:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if "error" in line or "undefined" in line]
        first = (errors or result.stderr.splitlines() or ["no message"])[0]
        raise EmulatorError(f"{failure}: {first.rpartition('error: ')[2].strip()}")


def emulate(program: Path, folder: Path, *, timeout: float = 600) -> tuple[int, str]:
    """Run a program in QEMU, with `folder` as the place of its files; return its status and what it prints.

    Raises:
        EmulatorError: QEMU is missing, or the program did not end.
    """
    need(QEMU[0], "apt install qemu-system-arm")
    try:
        result = subprocess.run([*QEMU, str(program.resolve())], cwd=folder, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise EmulatorError(f"{program.name} ran longer than {timeout:.0f} s in QEMU and was stopped") from None
    return result.returncode, (result.stdout + result.stderr).decode(errors="replace").strip()


FAILURES = {1: "it does not read its inputs", 2: "it has more than 6 MiB or 4,095 operators",
            3: "the library refuses it", 4: "its results cannot be written", 70: "the program crashed"}


def count(program: Path, model: bytes, inputs: bytes, *, sketch_kernels: bool = False) -> Counted:
    """Run a model once and count.

    Args:
        program: what `build` returns.
        model: the content of a `.tflite`.
        inputs: the bytes of all its inputs, one after the other.
        sketch_kernels: run the sketch's own kernels where they cover an operator, not the library's.

    Raises:
        EmulatorError: the library cannot run this model.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "model").write_bytes(model)
        (folder / "in").write_bytes(inputs)
        if sketch_kernels:
            (folder / "sketch_kernels").touch()
        status, text = emulate(program, folder)
        if status:
            reason = FAILURES.get(status, f"QEMU ended with status {status}")
            raise EmulatorError("the model cannot be counted: " + ": ".join([reason, *text.splitlines()[:1]]))
        rows = np.fromfile(folder / "counts", np.dtype([("name", "S28"), ("value", "<u4")]))
        (arena, invoke), operators = rows["value"][:2].tolist(), rows[2:]
        return Counted(tuple((name.decode(), int(value)) for name, value in operators.tolist()), invoke, arena,
                       (folder / "out").read_bytes())

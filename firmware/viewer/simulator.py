"""Run a sketch without a board: its portable sources, compiled for this computer, behind a pseudo-terminal.

tflite-micro runs the model that is compiled into the sketch. The camera is the sketch's test picture, moving.
"""
from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import tty
from pathlib import Path
from typing import IO, Callable

import numpy as np
from link import CAMERA_SILENT, InputError, LinkError
from yuv422 import from_yuyv, to_yuyv

HERE = Path(__file__).resolve().parent
SKETCH = HERE.parent / "mirnet_nano33ble"
BOARD_ONLY = ("board_nano33ble.cpp", "image_source_camera.cpp", "kernel_resolver.cpp", "model_runner.cpp")
FLAGS = ("-std=gnu++14", "-O2", "-DMIRNET_DISPLAY=0")  # a display is not simulated
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
# What the board takes: one frame of the camera runs when it is asked, it reads the next, and it gives up after a second
# (image_source.h). 0.45 seconds is the estimate in firmware/README.md for the model and the pixels.
CAMERA_SECONDS, SILENT_SECONDS, MODEL_SECONDS = 0.4, 1.0, 0.45
SHORTEST_SECONDS = 0.001
ARENA_BYTES = 1 << 20  # for tflite-micro, whose bookkeeping takes more on this computer than on the board

Camera = Callable[[], "np.ndarray | None"]


def portable_sources(sketch: Path = SKETCH) -> list[Path]:
    """List the sources of a sketch that need no board."""
    return sorted(path for path in sketch.glob("*.cpp") if path.name not in BOARD_ONLY)


def build(sketch: Path = SKETCH, *, sanitize: bool = False, folder: Path | None = None) -> Path:
    """Compile a sketch for this computer, unless the same sources have been compiled before. Returns the program.

    Raises:
        InputError: the sketch lacks a file or does not compile.
        LinkError: there is no compiler, or the program cannot be stored.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise LinkError("--simulate needs a C++ compiler: install g++, or name another in CXX")
    missing = [path.name for path in sorted(SKETCH.glob("*.[chi]*")) if not (sketch / path.name).is_file()]
    if missing:
        raise InputError(f"{sketch} is not a whole sketch, it has no {missing[0]}: copy {SKETCH} there and convert "
                         "your network into the copy")
    sources = [*portable_sources(sketch), HERE / "simulator.cpp"]
    main = sketch / f"{SKETCH.name}.ino"
    command = [compiler, *FLAGS, *(SANITIZERS if sanitize else ()), "-I", str(sketch), *map(str, sources),
               "-x", "c++", str(main)]
    key = hashlib.sha256(repr(command).encode())
    for path in sorted([*sketch.glob("*.h"), *sources, main]):
        key.update(path.read_bytes())
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mirnet-viewer"
    program = folder / f"simulator-{key.hexdigest()[:16]}"
    if not program.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                made = Path(temporary) / "simulator"
                result = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
                if result.returncode:
                    raise InputError(f"{sketch} does not compile: {_reason(result.stderr)}")
                os.replace(made, program)
        except OSError as error:
            raise LinkError(f"cannot write {folder}: {error.strerror}; free space, or set XDG_CACHE_HOME") from error
    return program


def _reason(stderr: str) -> str:
    """Return the sentences of the static assertions that failed, or all that the compiler said."""
    failed = re.findall(r"static assertion failed[^:]*: (.+)", stderr)
    return "; ".join(dict.fromkeys(failed)) or stderr.strip()


class Simulator:
    """A board that can be plugged in and out. `port` names its port, which stays the same.

    Args:
        camera: returns dark pictures, uint8 (height, width, 3) as the sketch has it, or None while the camera is
            silent; without one the camera shows the sketch's test picture, moving.
        sketch: the folder of the sketch.
        sanitize: compile with address and undefined behaviour sanitizers.
        folder: where to compile; None: the user's cache.
        fast: as fast as this computer can; otherwise at about the board's pace.

    Raises:
        InputError: the sketch lacks a file, does not compile, or its model is not the one that model_data.h describes.
        LinkError: the simulator lacks a program or a package.
    """

    def __init__(self, camera: Camera | None = None, *, sketch: Path = SKETCH, sanitize: bool = False,
                 folder: Path | None = None, fast: bool = True) -> None:
        self._fast = fast
        self._program = build(sketch, sanitize=sanitize, folder=folder)
        width, height, *codes = map(int, self._output("sizes").split())
        self._model = _Model(self._output("model"))
        if codes != [self._model.input_bytes, self._model.output_bytes]:
            raise InputError(f"{sketch}: model_data.h does not describe the model in model_data.cpp: convert the "
                             "network again")
        self._camera = camera or _moving(self._output("picture"), width, height)
        self._folder = tempfile.TemporaryDirectory(prefix="mirnet-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = str(Path(self._folder.name) / "port")
        self.plug()

    def plug(self) -> None:
        """Plug the board in; the sketch starts from setup()."""
        board_end, computer_end = os.openpty()
        tty.setraw(computer_end)
        terminal = os.ttyname(computer_end)
        os.close(computer_end)  # so that the sketch sees when a viewer has opened it
        self._board_end = board_end
        self._process = subprocess.Popen([self._program, "run", str(board_end)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, pass_fds=[board_end], bufsize=0)
        self._thread = threading.Thread(target=self._serve, args=(self._process,), daemon=True)
        self._thread.start()
        os.symlink(terminal, self.port)

    def unplug(self) -> int | None:
        """Pull the plug. Returns None if the sketch was running, else the exit status with which it had ended."""
        if self._process is None:
            return None
        os.unlink(self.port)
        ended = self._process.poll()
        self._process.kill()
        self._process.wait()
        self._thread.join()
        os.close(self._board_end)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None
        return ended

    def close(self) -> None:
        """Unplug the board for good."""
        self.unplug()
        self._folder.cleanup()

    def _output(self, what: str) -> bytes:
        return subprocess.run([self._program, what], check=True, capture_output=True).stdout

    def _serve(self, process: subprocess.Popen[bytes]) -> None:
        """Run the model and take frames when the sketch asks for it."""
        requests, answers = process.stdout, process.stdin
        assert requests is not None and answers is not None
        try:
            while request := requests.read(1):
                if request == b"M":
                    answer: bytes | None = self._model.run(_read(requests, self._model.input_bytes))
                    seconds = MODEL_SECONDS
                else:
                    turned, = _read(requests, 1)
                    picture = self._camera()
                    if picture is not None:
                        picture = picture[::-1 if turned & 2 else 1, ::-1 if turned & 1 else 1]
                    answer = None if picture is None else to_yuyv(picture).tobytes()
                    seconds = SILENT_SECONDS if picture is None else CAMERA_SECONDS
                time.sleep(SHORTEST_SECONDS if self._fast else seconds)
                answers.write(b"\0" + answer if answer is not None else bytes([CAMERA_SILENT]))
        except (OSError, EOFError):
            pass  # the board is unplugged


class _Model:
    def __init__(self, model: bytes) -> None:
        try:
            from tflite_micro.python.tflite_micro import runtime
        except ImportError as error:
            raise LinkError("--simulate needs tflite-micro: pip install --pre tflite-micro") from error
        self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=ARENA_BYTES)
        self._shape = tuple(self._interpreter.get_input_details(0)["shape"])
        self.input_bytes = int(np.prod(self._shape))
        self.output_bytes = int(np.prod(self._interpreter.get_output_details(0)["shape"]))

    def run(self, codes: bytes) -> bytes:
        self._interpreter.set_input(np.frombuffer(codes, np.int8).reshape(self._shape), 0)
        self._interpreter.invoke()
        return self._interpreter.get_output(0).tobytes()


def _moving(frame: bytes, width: int, height: int) -> Camera:
    picture = from_yuyv(np.frombuffer(frame, np.uint8).reshape(height, width, 2))
    return lambda shifts=itertools.count(step=2): np.roll(picture, -next(shifts), axis=1)  # type: ignore[misc]


def _read(pipe: IO[bytes], size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = pipe.read(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data

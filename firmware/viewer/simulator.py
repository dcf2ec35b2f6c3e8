"""The sketch without a board: its own portable sources, compiled for this computer, behind a pseudo-terminal.

The model is the one compiled into the sketch, run by tflite-micro; the camera is a picture that moves.
"""
from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
import threading
import tty
from pathlib import Path
from typing import IO, Callable

import numpy as np
from link import HEIGHT, WIDTH, LinkError, from_rgb565, to_rgb565

HERE = Path(__file__).resolve().parent
SKETCH = HERE.parent / "mirnet_nano33ble"
BOARD_ONLY = ("board_nano33ble.cpp", "enhancer.cpp", "image_source_camera.cpp")
FLAGS = ("-std=gnu++14", "-O2")
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
CAMERA_SILENT = 5  # a status of PROTOCOL.md
ARENA_BYTES = 1 << 20  # of tflite-micro; bookkeeping takes more than on the board

Camera = Callable[[], "np.ndarray | None"]


def portable_sources() -> list[Path]:
    """List the sources of the sketch that need no board."""
    return sorted(path for path in SKETCH.glob("*.cpp") if path.name not in BOARD_ONLY)


def build(*, sanitize: bool = False, folder: Path | None = None) -> Path:
    """Compile the sketch for this computer, or return what was compiled of the same sources before.

    Raises:
        LinkError: there is no compiler, or it refuses.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise LinkError("--simulate needs a C++ compiler: install g++, or name another by CXX")
    sources = [*portable_sources(), HERE / "simulator.cpp"]
    sketch = SKETCH / "mirnet_nano33ble.ino"
    command = [compiler, *FLAGS, *(SANITIZERS if sanitize else ()), *map(str, sources), "-x", "c++", str(sketch)]
    key = hashlib.sha256(repr(command).encode())
    for path in sorted([*SKETCH.glob("*.h"), *sources, sketch]):
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
                    raise LinkError(f"the sketch does not compile for this computer:\n{result.stderr.strip()}")
                os.replace(made, program)
        except OSError as error:
            raise LinkError(f"cannot write {folder}: {error.strerror}; free space, or set XDG_CACHE_HOME") from error
    return program


class Simulator:
    """A board that can be plugged in and out; `port` names its port, which stays the same.

    Args:
        camera: returns dark pictures, uint8 (120, 160, 3), or None while the camera is silent; without one the camera
            sees the sketch's test picture, moving.
        sanitize: compile with address and undefined behaviour sanitizers.
        folder: where to compile; None: the user's cache.

    Raises:
        LinkError: something is missing that the simulator needs.
    """

    def __init__(self, camera: Camera | None = None, *, sanitize: bool = False, folder: Path | None = None) -> None:
        self._program = build(sanitize=sanitize, folder=folder)
        self._model = _Model(self._output("model"))
        self._camera = camera or _moving(self._output("picture"))
        self._folder = tempfile.TemporaryDirectory(prefix="mirnet-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = str(Path(self._folder.name) / "port")
        self.plug()

    def plug(self) -> None:
        """Plug the board in; the sketch starts anew."""
        board_end, computer_end = os.openpty()
        tty.setraw(computer_end)
        self._ends = board_end, computer_end  # the second is held open, or the first would end with the first viewer
        self._process = subprocess.Popen([self._program, "run", str(board_end)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, pass_fds=[board_end], bufsize=0)
        self._thread = threading.Thread(target=self._serve, args=(self._process,), daemon=True)
        self._thread.start()
        os.symlink(os.ttyname(computer_end), self.port)

    def unplug(self) -> int | None:
        """Pull the plug. Returns the exit status with which the sketch had ended before, None if it still ran."""
        if self._process is None:
            return None
        os.unlink(self.port)
        ended = self._process.poll()
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for end in self._ends:
            os.close(end)
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
        """Answer what the sketch asks of its model and its camera."""
        requests, answers = process.stdout, process.stdin
        assert requests is not None and answers is not None
        try:
            while request := requests.read(1):
                if request == b"M":
                    answer: bytes | None = self._model.run(_read(requests, self._model.input_bytes))
                else:
                    picture = self._camera()
                    answer = None if picture is None else to_rgb565(picture).tobytes()
                answers.write(b"\0" + answer if answer is not None else bytes([CAMERA_SILENT]))
        except (OSError, EOFError):
            pass  # the plug is pulled


class _Model:
    def __init__(self, model: bytes) -> None:
        try:
            from tflite_micro.python.tflite_micro import runtime
        except ImportError as error:
            raise LinkError("--simulate needs tflite-micro: pip install --pre tflite-micro") from error
        self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=ARENA_BYTES)
        self._shape = tuple(self._interpreter.get_input_details(0)["shape"])
        self.input_bytes = int(np.prod(self._shape))

    def run(self, codes: bytes) -> bytes:
        self._interpreter.set_input(np.frombuffer(codes, np.int8).reshape(self._shape), 0)
        self._interpreter.invoke()
        return self._interpreter.get_output(0).tobytes()


def _moving(frame: bytes) -> Camera:
    picture = from_rgb565(np.frombuffer(frame, np.uint8).reshape(HEIGHT, WIDTH, 2))
    return lambda shifts=itertools.count(step=2): np.roll(picture, -next(shifts), axis=1)  # type: ignore[misc]


def _read(pipe: IO[bytes], size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = pipe.read(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data

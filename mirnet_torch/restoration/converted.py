"""Restore photographs with a converted network, in onnxruntime or LiteRT and without PyTorch.

    restore = load_converted("photo_any_size.onnx")
    bright = restore(dark)  # uint8 or uint16, (H, W, 3) or grey (H, W) -> the same

`conversion/to_tflite.py` makes the files. One for any size does what `enhance` does with PyTorch: a photograph of over
172,800 pixels is restored in tiles that fade into each other, with light and colour from a copy of the whole
(`full_size.py`). A file of a fixed size takes pictures of this size only.
"""
from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np

from mirnet_torch.cli import LARGEST_EXPOSURE, UserError, require_extra
from mirnet_torch.files.images import luma
from mirnet_torch.processes import usable_cores
from mirnet_torch.restoration.tiles import OVERLAP, TILE, shrunk_size, windows

SUFFIXES = {"onnx": ".onnx", "litert": ".tflite"}  # by runtime


class Converted:
    """A converted network, picture to picture.

    Args:
        path: the file.
        run: turns a float32 picture (H, W, C) in [0, 1] into the restored one; keywords are further inputs of the file.
        shape: (rows, columns, channels) that it takes; 0 for any.
        limits: properties of a file for any size, see `conversion/mirnet/any_size.py`; empty for others.
    """

    def __init__(self, path: Path, run: Callable[..., np.ndarray], shape: tuple[int, int, int],
                 limits: dict[str, int]) -> None:
        self.path, self.run, self.limits = path, run, limits
        self.size, self.channels = shape[:2], shape[2]

    def __call__(self, pixels: np.ndarray, *, exposure: float = 0.0) -> np.ndarray:
        """Restore a picture.

        Args:
            pixels: uint8 or uint16, (H, W, 3) or grey (H, W); an RGB network takes grey as RGB and returns its luma.
            exposure: how much brighter than the network's own choice, in EV, from -4 to 4; files for any size only.

        Returns:
            The restored picture, of the type and shape of `pixels`.

        Raises:
            ValueError: the file cannot take such a picture or exposure.
            FloatingPointError: its result is not finite.
        """
        if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape[2:] not in ((), (3,)) or not pixels.size:
            raise ValueError(f"it takes uint8 or uint16, (H, W, 3) or (H, W), not {pixels.dtype} {pixels.shape}")
        if self.channels == 1 and pixels.ndim == 3:
            raise ValueError("the network takes grey pictures, this one has colours")
        if not abs(exposure) <= LARGEST_EXPOSURE:
            raise ValueError(f"exposure must be from -{LARGEST_EXPOSURE:g} to {LARGEST_EXPOSURE:g} EV, not {exposure}")
        if exposure and not self.limits:
            raise ValueError(f"{self.path} has no exposure: take the ONNX file for any size, NAME_any_size.onnx")
        height, width = pixels.shape[:2]
        if all(self.size) and (height, width) != self.size:
            raise ValueError(f"{self.path} takes pictures of {self.size[1]}x{self.size[0]} pixels only, this has "
                             f"{width}x{height}: take the ONNX file for any size, NAME_any_size.onnx, or convert with "
                             f"--size {width}x{height}")
        planes = pixels if pixels.ndim == 3 else pixels[..., None]
        others = {"exposure": np.array([exposure], np.float32)} if exposure else {}
        if self.limits and height * width > self.limits["copy_pixels"]:
            levels = self._tiles(planes, others)
        else:
            levels = _levels(self._restore(planes, others), pixels.dtype)
        if pixels.ndim == 3:
            return levels
        return levels[..., 0] if self.channels == 1 else luma(levels)

    def _restore(self, planes: np.ndarray, others: dict[str, np.ndarray]) -> np.ndarray:
        image = np.broadcast_to(_values(planes), (*planes.shape[:2], self.channels))
        restored = self.run(image, **others)
        if not np.isfinite(restored).all():
            raise FloatingPointError("the network's output is not finite: its weights do not suit this image")
        return restored

    def _tiles(self, planes: np.ndarray, others: dict[str, np.ndarray]) -> np.ndarray:
        """Restore a large photograph (H, W, C or 1): memory holds one row of tiles besides it and the result."""
        height, width = planes.shape[:2]
        view = shrink(planes, self.limits["copy_pixels"])
        view = np.ascontiguousarray(np.broadcast_to(view, (*view.shape[:2], self.channels)).transpose(2, 0, 1))[None]
        columns, rows = (windows(side, TILE, OVERLAP, self.limits["tile_multiple"]) for side in (width, height))
        levels = np.empty((height, width, self.channels), planes.dtype)
        sums = np.zeros((0, width, self.channels), np.float32)
        top = 0  # of the rows in `sums`
        for k, (y, weight_y) in enumerate(rows):
            sums = np.pad(sums, ((0, y.stop - top - len(sums)), (0, 0), (0, 0)))
            for x, weight_x in columns:
                window = np.array([y.start, x.start, height, width], np.int64)
                tile = self._restore(planes[y, x], others | {"view": view, "window": window})
                sums[y.start - top:, x] += tile * (weight_y[:, None, None] * weight_x[:, None]).astype(np.float32)
            done = rows[k + 1][0].start if k + 1 < len(rows) else height
            levels[top:done] = _levels(sums[:done - top], planes.dtype)
            sums, top = sums[done - top:].copy(), done
        return levels


def shrink(planes: np.ndarray, pixels: int) -> np.ndarray:
    """Shrink (H, W, C) of levels by a box filter to at most so many pixels, in its aspect, as `full_size.box_filter`.

    Returns:
        float32 in [0, 1].
    """
    height, width, channels = planes.shape
    rows, columns = shrunk_size(height, width, pixels)
    shrunk = np.empty((rows, width, channels))
    for row in range(rows):
        low, high = row * height / rows, (row + 1) * height / rows
        first, last = int(low), min(math.ceil(high), height)
        line = np.arange(first, last)
        covered = (np.minimum(line + 1, high) - np.maximum(line, low)).clip(min=0) * (rows / height)
        shrunk[row] = np.tensordot(covered.astype(np.float32), _values(planes[first:last]), 1)
    sums = np.pad(shrunk.cumsum(1), ((0, 0), (1, 0), (0, 0)))
    edges = np.arange(columns + 1) * (width / columns)
    before = np.minimum(edges.astype(int), width - 1)
    at_edges = sums[:, before] + (sums[:, before + 1] - sums[:, before]) * (edges - before)[:, None]
    return (np.diff(at_edges, axis=1) * (columns / width)).astype(np.float32)


def _values(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.float32) / np.float32(np.iinfo(levels.dtype).max)


def _levels(values: np.ndarray, dtype: Any) -> np.ndarray:
    return (values.clip(0, 1) * np.float32(np.iinfo(dtype).max)).round().astype(dtype)


def load_converted(path: str | os.PathLike[str], *, threads: int | None = None) -> Converted:
    """Open a converted network; a file that ends in .tflite runs in LiteRT, any other in onnxruntime.

    Args:
        path: the file.
        threads: of the runtime; None: as many as this process has processors, or OMP_NUM_THREADS.

    Raises:
        UserError: the file is missing, not a network from picture to picture, or its runtime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a file that conversion/to_tflite.py made")
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = threads or (int(given) if given.isdecimal() else 0) or usable_cores()
    litert = path.suffix.lower() == SUFFIXES["litert"]
    require_extra("litert" if litert else "onnx", f"running {path.name}")
    try:
        converted = (_open_litert if litert else _open_onnx)(path, threads)
    except (UserError, ImportError, OSError, MemoryError):
        raise
    except Exception as error:  # the runtimes have their own exceptions
        raise UserError(f"{path} cannot be run: {' '.join(str(error).split())[:200]}") from None
    if converted is None or converted.channels not in (1, 3):
        raise UserError(f"{path} is no network from picture to picture in float32: give NAME_any_size.onnx, "
                        "NAME_float32.tflite, NAME_float16.tflite or NAME_int8.tflite of photo, or NAME.onnx of the "
                        "published network")
    return converted


def _open_onnx(path: Path, threads: int) -> Converted | None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.enable_cpu_mem_arena = False  # it keeps twice the memory that is needed
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (image, *_), (restored, *_) = session.get_inputs(), session.get_outputs()
    if len(session.get_inputs()) > 1 or image.type != "tensor(float)" or len(image.shape) != 4 or \
            image.shape[1:] != restored.shape[1:]:
        return None
    channels, rows, columns = (side if isinstance(side, int) else 0 for side in image.shape[1:])
    properties = session.get_modelmeta().custom_metadata_map
    limits = {name: int(properties[name]) for name in ("copy_pixels", "tile_multiple") if name in properties}

    def run(picture: np.ndarray, **others: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(picture.transpose(2, 0, 1)[None])
        return session.run(None, {image.name: planes} | others)[0][0].transpose(1, 2, 0)

    return Converted(path, run, (rows, columns, channels), limits)


def _open_litert(path: Path, threads: int) -> Converted | None:
    from ai_edge_litert.interpreter import Interpreter

    with _silent():
        interpreter = Interpreter(model_path=os.fspath(path), num_threads=threads)
        interpreter.allocate_tensors()
    (image, *others), (restored, *_) = interpreter.get_input_details(), interpreter.get_output_details()
    if others or image["dtype"] != np.float32 or len(image["shape"]) != 4 or \
            image["shape"].tolist() != restored["shape"].tolist():
        return None

    one = threading.Lock()  # an interpreter serves one thread at a time

    def run(picture: np.ndarray) -> np.ndarray:
        with one:
            interpreter.set_tensor(image["index"], np.ascontiguousarray(picture[None], np.float32))
            interpreter.invoke()
            return interpreter.get_tensor(restored["index"])[0]

    rows, columns, channels = image["shape"][1:].tolist()
    return Converted(path, run, (rows, columns, channels), {})


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard standard error: LiteRT writes lines to it that no option turns off; its faults are exceptions."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def add_runtime_option(parser: argparse.ArgumentParser) -> None:
    """Add `--runtime` to the options of `enhance`; its value goes to `open_converted`."""
    parser.add_argument("--runtime", choices=("torch", *SUFFIXES),
                        help="what runs the network: PyTorch, onnxruntime or LiteRT (default: by the suffix of "
                             "--checkpoint: .onnx, .tflite, else torch). The last two need no PyTorch, but one of the "
                             "extras [onnx] and [litert]")


def open_converted(options: argparse.Namespace) -> Converted | None:
    """Return the converted network that the options of `enhance` ask for; None: a checkpoint for PyTorch.

    Raises:
        UserError: options exclude each other, or the file cannot be used.
    """
    suffix = Path(options.checkpoint).suffix.lower()
    runtime = options.runtime or next((name for name, end in SUFFIXES.items() if end == suffix), "torch")
    if runtime == "torch" and suffix not in SUFFIXES.values():
        return None
    path = Path(options.checkpoint)
    if suffix != SUFFIXES.get(runtime):
        raise UserError(f"--runtime {runtime} does not run {options.checkpoint}: give "
                        + (f"--checkpoint NAME{SUFFIXES[runtime]}, which conversion/to_tflite.py makes"
                           if runtime in SUFFIXES else "a checkpoint"))
    for name in ("tile", "overlap", "frames"):
        if getattr(options, name) not in (None, False):
            raise UserError(f"--{name} needs PyTorch and a checkpoint, {options.checkpoint} is a converted network: "
                            "leave it out")
    if options.device not in ("auto", "cpu"):
        raise UserError(f"a converted network runs on the CPU, not on {options.device}: leave --device out")
    return load_converted(path)

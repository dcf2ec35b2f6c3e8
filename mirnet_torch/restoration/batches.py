"""Photographs of equal size in one batch, for a device that is faster with several: a GPU.

Threads read photographs and hand them in. While the device computes one batch, the others wait here; the first to find
the device free takes all of its size. So reading and writing go on beside the device, and nothing waits for a batch to
become full. On a CPU photographs one by one are faster (`photo_inference`). Tested on a CPU; not tested on a GPU.
"""
from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Callable

import numpy as np

if TYPE_CHECKING:
    from mirnet_torch.presets import Network

PIXELS = 2 ** 21  # of a batch, so that `picture.default_tile` cuts none
THREADS = 16  # that read photographs: so many are in a batch at most

Restore = Callable[[np.ndarray, str], np.ndarray]


def faster_in_batches(model: Network) -> bool:
    """Return whether a network is on a device that is faster with several photographs: all but a CPU."""
    return next(model.parameters()).device.type != "cpu"


class Batches:
    """A function for several threads that restores a photograph, together with those of others.

    Args:
        restore: takes (H, W, 3), (H, W) or, for several, (B, H, W, 3), and the folder of the first; returns the same.
        pixels: of a batch; larger photographs are restored alone.
    """

    def __init__(self, restore: Restore, *, pixels: int = PIXELS) -> None:
        self.restore, self.pixels = restore, pixels
        self._list, self._device = threading.Lock(), threading.Lock()
        self._waiting: list[tuple[np.ndarray, Future[np.ndarray]]] = []

    def __call__(self, image: np.ndarray, folder: str = "") -> np.ndarray:
        """Restore (H, W, 3) or grey (H, W) that comes from a folder.

        Raises what `restore` raises for this photograph alone.
        """
        result: Future[np.ndarray] = Future()
        with self._list:
            self._waiting.append((image, result))
        with self._device:
            if not result.done():  # else it was in another thread's batch
                self._restore_batch(image, folder, result)
        return result.result()

    def _restore_batch(self, image: np.ndarray, folder: str, own: Future[np.ndarray]) -> None:
        """Take a photograph and those like it off the list and restore them."""
        largest = max(self.pixels // (image.shape[0] * image.shape[1]), 1) if image.ndim == 3 else 1
        with self._list:
            alike = [(other, result) for other, result in self._waiting if result is not own
                     and (other.shape, other.dtype) == (image.shape, image.dtype)]
            batch = [(image, own), *alike[:largest - 1]]
            taken = {id(result) for _, result in batch}
            self._waiting = [pair for pair in self._waiting if id(pair[1]) not in taken]
        if len(batch) > 1:
            try:
                restored = self.restore(np.stack([other for other, _ in batch]), folder)
            except Exception:  # each alone, so that only those fail that cannot be restored
                pass
            else:
                for (_, result), each in zip(batch, restored):
                    result.set_result(each)
                return
        for other, result in batch:
            try:
                result.set_result(self.restore(other, folder))
            except BaseException as error:
                result.set_exception(error)

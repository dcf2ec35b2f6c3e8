"""Scenes to train on and pairs to validate with: pairs of dark and bright images, photographs, panoramas.

Layouts of a data folder (PNG, JPEG, WebP, BMP; the two images of a pair have the same name up to the suffix):

    DIR/{low,high}                      without a split: every tenth pair by name is held out for validation
    DIR/{train,val}/{low,high}
    DIR/{our485,eval15}/{low,high}      the LOL data set as its authors publish it
    DIR/*.jpg, *.png ...                well exposed photographs, darkened afresh at every visit; for training only
    DIR/*.hdr                           panoramas of linear light, see `panoramas`: views exposed twice

Several folders are mixed in fixed shares: "DIR:2" takes two samples for every one of "DIR:1".
"""
from __future__ import annotations

import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mirnet_torch.camera import darken
from mirnet_torch.cli import UserError, split_share
from mirnet_torch.images import SUFFIXES, camera_size, open_image, read_image
from mirnet_torch.panoramas import SUFFIX as PANORAMA
from mirnet_torch.panoramas import find_panoramas

LAYOUTS = (("train", "val"), ("our485", "eval15"))
HOLD_OUT = 10  # every tenth pair of a folder without a split
SHOWN = 20  # bad pairs that an error lists by name
VIEWS = 32  # samples that a pass takes of every embedded photograph, and of every panorama
VAL_FRAMES = 3  # dark frames of every embedded validation photograph
# Photographs that scikit-image carries in its package (no download). No scene is in both lists.
TRAIN_PHOTOGRAPHS = ("astronaut", "rocket", "stereo_motorcycle", "camera", "brick", "grass")
VAL_PHOTOGRAPHS = ("chelsea", "coffee")
_VALIDATION = 3  # this stream of random numbers; the others are those of `samples`


@dataclass(frozen=True)
class Pair:
    """A dark and a bright image of one scene."""

    name: str
    low: Path
    high: Path


def find_pairs(folder: str | os.PathLike[str], split: str | None = None) -> list[Pair]:
    """Find the pairs of a data folder and decode each once, so that bad ones are reported before the work starts.

    Args:
        folder: a folder in one of the layouts of this module's docstring.
        split: "train", "val", or None: the validation part of a folder that has one, else every pair.

    Returns:
        The pairs in natural order of their names (2 before 10).

    Raises:
        UserError: the folder has another layout or no pairs; or some images have no partner, cannot be decoded, or
            differ in size from their partner (one message lists them all).
    """
    return _find(folder, [split])[0]


def find_split(folder: str | os.PathLike[str]) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to train on and those to validate on. Raises what `find_pairs` raises, once for both."""
    train, val = _find(folder, ["train", "val"])
    return train, val


def _find(folder: str | os.PathLike[str], splits: Sequence[str | None]) -> list[list[Pair]]:
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give one with low/ and high/, train/ and val/, or our485/ and "
                        "eval15/")
    faults: list[str] = []
    chosen = [_choose(folder, split, faults) for split in splits]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults += filter(None, pool.map(_fault, [pair for pairs in chosen for pair in pairs]))
    faults = list(dict.fromkeys(faults))  # a folder without a split is searched twice
    _require_none(folder, faults)
    return chosen


def _require_none(folder: Path, faults: list[str]) -> None:
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(f"{folder}: {len(faults)} bad images, fix or remove them: {'; '.join(faults[:SHOWN])}{more}")


def _choose(folder: Path, split: str | None, faults: list[str]) -> list[Pair]:
    """Return the pairs of a split; append what has no partner to `faults`."""
    for halves in LAYOUTS:
        there = [half for half in halves if (folder / half).is_dir()]
        if len(there) == 2:
            return _match(folder / halves[0 if split == "train" else 1], faults)
        if there:
            folder = folder / there[0]
            break
    pairs = _match(folder, faults)
    if split is None:
        return pairs
    if len(pairs) == 1 and not faults:
        raise UserError(f"{folder} has one pair only: training needs one more to validate on")
    held_out = pairs[HOLD_OUT - 1::HOLD_OUT] or pairs[-1:]
    return held_out if split == "val" else [pair for pair in pairs if pair not in held_out]


def _match(folder: Path, faults: list[str]) -> list[Pair]:
    """Pair the images of folder/low and folder/high by name; append those without a partner to `faults`."""
    if not ((folder / "low").is_dir() and (folder / "high").is_dir()):
        raise UserError(f"{folder} has no low/ and high/ with the dark and the bright images")
    files: dict[str, dict[str, Path]] = {"low": {}, "high": {}}
    for side, found in files.items():
        for path in sorted((folder / side).iterdir()):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                continue
            if path.stem in found:
                faults.append(f"{path} has the name of {found[path.stem].name}")
            found[path.stem] = path
    if not files["low"] and not files["high"]:
        raise UserError(f"{folder} has no images in low/ and high/ (readable: {', '.join(SUFFIXES)})")
    for side, other in (("low", "high"), ("high", "low")):
        faults += [f"{path} has no partner in {other}/" for stem, path in files[side].items()
                   if stem not in files[other]]
    names = sorted(files["low"].keys() & files["high"].keys(), key=_natural)
    return [Pair(name, files["low"][name], files["high"][name]) for name in names]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that puts 2 before 10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def _fault(pair: Pair) -> str | None:
    low, high = _size_or_fault(pair.low), _size_or_fault(pair.high)
    if isinstance(low, str) or isinstance(high, str):
        return low if isinstance(low, str) else str(high)
    return None if low == high else f"{pair.low} is {low[0]}x{low[1]}, but {pair.high} is {high[0]}x{high[1]}"


def _photograph_fault(path: Path) -> str | None:
    found = _size_or_fault(path)
    return found if isinstance(found, str) else None


def _size_or_fault(path: Path) -> tuple[int, int] | str:
    """Decode an image to its end and return (width, height), or what is wrong with it."""
    try:
        height, width = read_image(path).shape[:2]
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return width, height


class Scenes:
    """The scenes to train on: pairs (2, 3, H, W), the dark image first, or photographs (1, 3, H, W), uint8.

    Args:
        pairs: the pairs, or files of photographs; None for the embedded photographs.
        cache_bytes: decoded scenes are kept in memory if all of them fit into this many bytes.
    """

    def __init__(self, pairs: Sequence[Pair] | Sequence[Path] | None, *, cache_bytes: int = 0) -> None:
        self.pairs = pairs
        self.views = 1 if pairs is not None else VIEWS
        if pairs is None:
            self.names: Sequence[str] = TRAIN_PHOTOGRAPHS
            self._kept: list[Tensor] | None = [stack_images(photograph(name)) for name in TRAIN_PHOTOGRAPHS]
            self.sizes = [(scene.shape[-1], scene.shape[-2]) for scene in self._kept]
            return
        self.names = [scene.name for scene in pairs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.sizes = list(pool.map(_size, pairs))
            fits = sum(6 * width * height for width, height in self.sizes) <= cache_bytes
            self._kept = list(pool.map(_read_scene, pairs)) if fits else None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        if self._kept is not None:
            return self._kept[index]
        assert self.pairs is not None
        return _read_scene(self.pairs[index])


def photograph(name: str) -> np.ndarray:
    """Return a photograph that comes with scikit-image, uint8 (H, W, 3)."""
    import skimage.data  # of the extra [train]; finding pairs does not need it
    image = getattr(skimage.data, name)()
    image = image[0] if isinstance(image, tuple) else image  # the left image of a stereo pair
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def _size(scene: Pair | Path) -> tuple[int, int]:
    """Return the (width, height) of an image turned upright, read from its header."""
    path = scene.low if isinstance(scene, Pair) else scene
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about large pictures and odd metadata
        with Image.open(path) as image:
            try:
                if image.getexif().get(0x0112, 1) < 5:
                    return image.size
            except Exception:  # damaged EXIF fails in many ways
                pass
    return open_image(path).size  # turned, or with EXIF that `open_image` may ignore: it decides


def _read_scene(scene: Pair | Path) -> Tensor:
    return stack_images(*map(read_image, (scene.low, scene.high) if isinstance(scene, Pair) else (scene,)))


def stack_images(*images: np.ndarray) -> Tensor:
    """Return images (H, W, 3) of one size as one tensor (n, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # channels last in memory: faster to resize


@dataclass(frozen=True)
class Source:
    """What one folder holds to train on, and how many samples of a round come from it."""

    scenes: Sequence[Pair] | Sequence[Path] | None  # pairs, or files; None: the embedded photographs
    share: int = 1
    panoramas: bool = False


@dataclass(frozen=True)
class Sources:
    """What several folders hold: to train on, and pairs to validate with (None: the embedded photographs)."""

    name: str
    train: Sequence[Source]
    val: Sequence[Pair] | None


def find_sources(folders: Sequence[str | os.PathLike[str]]) -> Sources:
    """Find what the folders of `--data` hold; without any: the photographs inside scikit-image.

    Args:
        folders: "DIR" or "DIR:SHARE", SHARE a whole number from 1 up. Validation pairs are those of the folders with
            pairs; without any the embedded photographs serve.

    Raises:
        UserError: as `find_split` and `panoramas.find_panoramas`; photographs cannot be read.
    """
    train, val, names = [], [], []
    for given in folders:
        folder, share = split_share(given)
        names.append(folder.resolve().name)
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        files = [path for path in files if path.is_file() and not path.name.startswith(".")]
        if any(path.suffix.lower() == PANORAMA for path in files):
            train.append(Source(find_panoramas(folder)[0], share, panoramas=True))
        elif (photographs := [path for path in files if path.suffix.lower() in SUFFIXES]) \
                and folder.name not in ("low", "high"):  # half of a folder of pairs is a mistake
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                _require_none(folder, list(filter(None, pool.map(_photograph_fault, photographs))))
            train.append(Source(photographs, share))
        else:
            pairs, held_out = find_split(folder)
            train.append(Source(pairs, share))
            val += held_out
    return Sources(", ".join(names) or "photographs of scikit-image", train or [Source(None)], val or None)


def validation_frames(pairs: Sequence[Pair] | None, size: tuple[int, int] | None, *,
                      seed: int = 0) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (name, dark, bright), uint8 (H, W, 3), of pairs or of the embedded validation photographs.

    Args:
        pairs: the pairs; None for the embedded photographs, each darkened `VAL_FRAMES` times.
        size: (width, height) to crop and box-filter every image to, as `images.camera_size` does; None: unchanged.
        seed: seed of the camera model.
    """
    for pair in pairs or ():
        low, high = read_image(pair.low), read_image(pair.high)
        yield (pair.name, camera_size(low, size), camera_size(high, size)) if size else (pair.name, low, high)
    for number, name in enumerate(VAL_PHOTOGRAPHS if pairs is None else ()):
        high = camera_size(photograph(name), size) if size else photograph(name)
        for frame in range(VAL_FRAMES):
            rng = np.random.default_rng((seed, _VALIDATION, number, frame))
            yield f"{name}-{frame + 1}", darken(high, rng=rng), high

"""Scenes to train on and pairs to validate with: pairs of dark and bright images, photographs, panoramas.

`LAYOUTS` describes a folder of pairs. The images of a pair have one name, up to the suffix and a leading "low", "high"
or "normal". Without a split every tenth pair by name is held out for validation. Training also takes

    DIR/*.jpg, *.png ...        well exposed photographs, darkened afresh at every visit
    DIR/*.hdr                   panoramas of linear light, see `panoramas`: views exposed twice

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

from mirnet_torch.cli import Size, UserError, progress, split_share
from mirnet_torch.files.folders import natural
from mirnet_torch.files.images import SUFFIXES, camera_size, open_image, read_image
from mirnet_torch.scenes.camera import darken
from mirnet_torch.scenes.panoramas import SUFFIX as PANORAMA
from mirnet_torch.scenes.panoramas import find_panoramas

LAYOUTS = ("low/ and high/ (in LOL-v2: Low/ and Normal/), by themselves, in train/ and val/, in Train/ and Test/, or "
           "in LOL's our485/ and eval15/")
SPLITS = (("train", "val"), ("train", "test"), ("our485", "eval15"))  # in any case, as are the sides
SIDES = (("low", "high"), ("low", "normal"))
HOLD_OUT = 10  # every tenth pair of a folder without a split
SHOWN = 20  # bad pairs that an error lists by name
VIEWS = 32  # samples that a pass takes of every embedded photograph, and of every panorama
VAL_FRAMES = 3  # dark frames of every embedded validation photograph
# Photographs that scikit-image carries in its package (no download). No scene is in both lists.
TRAIN_PHOTOGRAPHS = ("astronaut", "rocket", "stereo_motorcycle", "camera", "brick", "grass")
VAL_PHOTOGRAPHS = ("chelsea", "coffee")
_VALIDATION = 3  # this stream of random numbers; the others are those of `training.samples`


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


def has_parts(folder: str | os.PathLike[str]) -> bool:
    """Return whether a data folder has a part to train on and one to validate on, such as train/ and val/."""
    return any(all(children(Path(folder), names)) for names in SPLITS)


def _has_pairs(folder: Path) -> bool:
    """Return whether a folder has sub-folders of pairs, whatever images may lie beside them."""
    return any(all(children(folder, names)) for names in (*SPLITS, *SIDES))


def _find(folder: str | os.PathLike[str], splits: Sequence[str | None]) -> list[list[Pair]]:
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give one with {LAYOUTS}")
    faults: list[str] = []
    return _checked(folder, [_choose(folder, split, faults) for split in splits], faults)


def match_pairs(low: str | os.PathLike[str], high: str | os.PathLike[str]) -> list[Pair]:
    """Pair the images of two folders by name. Raises what `find_pairs` raises."""
    for folder in (low, high):
        if not Path(folder).is_dir():
            raise UserError(f"{folder} is not a folder")
    if os.path.samefile(low, high):
        raise UserError(f"{low} is given as --low and as --high: give the folder of the bright images as --high")
    faults: list[str] = []
    return _checked(Path(low), [_match(Path(low), Path(high), faults)], faults)[0]


def split_pairs(pairs: list[Pair], split: str | None) -> list[Pair]:
    """Return all pairs (None), every tenth ("val"), or the others ("train"). A single pair is a UserError."""
    if split is None:
        return pairs
    if len(pairs) == 1:
        raise UserError(f"{pairs[0].low.parent} has one pair only: training needs one more to validate on")
    held_out = pairs[HOLD_OUT - 1::HOLD_OUT] or pairs[-1:]
    return held_out if split == "val" else [pair for pair in pairs if pair not in held_out]


def find_results(folder: str | os.PathLike[str], pairs: Sequence[Pair], size: Size | None = None) -> list[Path]:
    """Find the finished pictures of a method, one for every pair, with the name of its dark or its bright image.

    Args:
        folder: where the pictures are.
        pairs: what they were made from.
        size: (width, height) that a picture may have instead of that of its pair.

    Raises:
        UserError: pictures are missing, cannot be decoded, or have another size (one message lists them all).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give one with the finished pictures of a method")
    faults: list[str] = []
    files = _images(folder, faults)
    bare = {_bare(name): path for name, path in files.items()}
    found: list[Path] = []
    for pair in pairs:
        path = files.get(pair.low.stem) or files.get(pair.high.stem) or bare.get(_bare(pair.low.stem))
        if path is None:
            faults.append(f"there is no picture of {pair.name}")
        else:
            found.append(path)

    def fault(path: Path, pair: Pair) -> str | None:
        given = _size_or_fault(path)
        if isinstance(given, str) or given == size or given == (wanted := _size(pair)):
            return given if isinstance(given, str) else None
        return f"{path} is {given[0]}x{given[1]}, but {pair.high} is {wanted[0]}x{wanted[1]}"
    if not faults:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            faults += filter(None, pool.map(fault, found, pairs))
    _require_none(folder, faults, "pictures are missing or do not fit")
    return found


def _checked(folder: Path, chosen: list[list[Pair]], faults: list[str]) -> list[list[Pair]]:
    """Decode all pairs once; raise one error with these and the given faults, if any."""
    every = [pair for pairs in chosen for pair in pairs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults += filter(None, progress(pool.map(_fault, every), desc="check images", unit="pair", leave=False,
                                        total=len(every)))
    _require_none(folder, list(dict.fromkeys(faults)))  # a folder without a split is searched twice
    return chosen


def _require_none(folder: Path, faults: list[str], kind: str = "bad images, fix or remove them") -> None:
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(f"{folder}: {len(faults)} {kind}: {'; '.join(faults[:SHOWN])}{more}")


def _choose(folder: Path, split: str | None, faults: list[str]) -> list[Pair]:
    """Return the pairs of a split; append what has no partner to `faults`."""
    halves = [half for half in (children(folder, names) for names in SPLITS) if any(half)]
    for train, val in halves:
        if train and val:
            return _match(*_sides(train if split == "train" else val), faults)
    if halves:
        folder = next(half for half in halves[0] if half)
    pairs = _match(*_sides(folder), faults)
    return pairs if faults else split_pairs(pairs, split)


def children(folder: Path, names: Sequence[str]) -> list[Path | None]:
    """Return the sub-folder of each name, in any case; None where there is none."""
    there = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True) if path.is_dir()}
    return [there.get(name) for name in names]


def _sides(folder: Path) -> tuple[Path, Path]:
    """Return the folders of the dark and of the bright images."""
    for names in SIDES:
        low, high = children(folder, names)
        if low and high:
            return low, high
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and _has_pairs(path)]
    better = f"; did you mean {' or '.join(map(str, inside[:4]))}?" if inside else ""
    raise UserError(f"{folder} has no low/ and high/ (or Low/ and Normal/) with the dark and the bright images{better}")


def _images(folder: Path, faults: list[str]) -> dict[str, Path]:
    """Return the images of a folder by their stems; append those whose stem is taken to `faults`."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            faults.append(f"{path} has the name of {found[path.stem].name}")
        found[path.stem] = path
    return found


def _match(low: Path, high: Path, faults: list[str]) -> list[Pair]:
    """Pair the images of two folders by name; append those without a partner to `faults`."""
    dark, bright = _images(low, faults), _images(high, faults)
    if not dark and not bright:
        raise UserError(f"{low.parent} has no images in {low.name}/ and {high.name}/ (readable: {', '.join(SUFFIXES)})")
    partners = {name: name for name in dark if name in bright}
    others = {_bare(name): name for name in bright if name not in partners}
    partners |= {name: others[_bare(name)] for name in dark if name not in partners and _bare(name) in others}
    faults += [f"{path} has no partner in {high.name}/" for name, path in dark.items() if name not in partners]
    taken = set(partners.values())
    faults += [f"{path} has no partner in {low.name}/" for name, path in bright.items() if name not in taken]
    return [Pair(name, dark[name], bright[partners[name]]) for name in sorted(partners, key=natural)]


def _bare(stem: str) -> str:
    """Return a stem without the word for its side: low00001 and normal00001 are 00001."""
    return re.sub("^(low|high|normal)[-_]?(?=.)", "", stem, flags=re.IGNORECASE)


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

    Attributes:
        kept_bytes: what the scenes that are kept take.
    """

    def __init__(self, pairs: Sequence[Pair] | Sequence[Path] | None, *, cache_bytes: int = 0) -> None:
        self.pairs = pairs
        self.views = 1 if pairs is not None else VIEWS
        if pairs is None:
            self.names: Sequence[str] = TRAIN_PHOTOGRAPHS
            self._kept: list[Tensor] | None = [stack_images(photograph(name)) for name in TRAIN_PHOTOGRAPHS]
            self.sizes = [(scene.shape[-1], scene.shape[-2]) for scene in self._kept]
            self.kept_bytes = sum(scene.numel() for scene in self._kept)
            return
        self.names = [scene.name for scene in pairs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.sizes = list(pool.map(_size, pairs))
            needed = sum((6 if isinstance(scene, Pair) else 3) * width * height
                         for scene, (width, height) in zip(pairs, self.sizes))
            self._kept = list(pool.map(_read_scene, pairs)) if needed <= cache_bytes else None
        self.kept_bytes = 0 if self._kept is None else needed

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


def find_sources(folders: Sequence[str | os.PathLike[str]], *, low: Path | None = None,
                 high: Path | None = None) -> Sources:
    """Find what the folders of `--data` hold; without any: the photographs inside scikit-image.

    Args:
        folders: "DIR" or "DIR:SHARE", SHARE a whole number from 1 up. Validation pairs are those of the folders with
            pairs; without any the embedded photographs serve.
        low: folder of dark images; with `high`, pairs besides those of `folders`.
        high: folder of bright images.

    Raises:
        UserError: as `find_split` and `panoramas.find_panoramas`; photographs cannot be read.
    """
    train, val, names = [], [], []
    if low and high:
        matched = match_pairs(low, high)
        train.append(Source(split_pairs(matched, "train")))
        val += split_pairs(matched, "val")
        names.append(low.resolve().name)
    for given in folders:
        folder, share = split_share(given)
        names.append(folder.resolve().name)
        files = sorted(folder.iterdir()) if folder.is_dir() and not _has_pairs(folder) else []
        files = [path for path in files if path.is_file() and not path.name.startswith(".")]
        if any(path.suffix.lower() == PANORAMA for path in files):
            train.append(Source(find_panoramas(folder)[0], share, panoramas=True))
        elif (photographs := [path for path in files if path.suffix.lower() in SUFFIXES]) \
                and folder.name.lower() not in ("low", "high", "normal"):  # half of a folder of pairs is a mistake
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

"""Find the images in files and folders, say what is left out and why, and where the results go."""
from __future__ import annotations

import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Iterable, Iterator

from mirnet_torch.cli import UserError, install_command, is_leftover
from mirnet_torch.files.images import HEIC_SUFFIXES, RAW_SUFFIXES, SUFFIXES
from mirnet_torch.files.photographs import can_read, result_suffix
from mirnet_torch.files.video import VIDEO_SUFFIXES

# Files that hold pictures in formats that are not read here; the summary counts them by these names.
CLASSES = {"HEIC": HEIC_SUFFIXES, "AVIF": (".avif",), "JPEG XL": (".jxl",), "GIF": (".gif",), "videos": VIDEO_SUFFIXES,
           "RAW": RAW_SUFFIXES}
EXTRAS_OF = {"HEIC": "heic", "RAW": "raw"}
_CLASS_OF = {suffix: name for name, suffixes in CLASSES.items() for suffix in suffixes}


@dataclass(frozen=True, slots=True)
class Job:
    """One image to enhance: its file, and where the results go. Strings, since there may be a million."""

    source: str
    target: str
    compare: str | None

    @property
    def targets(self) -> tuple[str, ...]:
        """All files that the job writes."""
        return (self.target,) if self.compare is None else (self.target, self.compare)


@dataclass
class Found:
    """What inputs hold: jobs, each input that is none with a message, and how many files are left out, by class."""

    jobs: list[Job] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def find_jobs(inputs: Iterable[str | os.PathLike[str]], out: Path, *, compare: bool,
              format: str | None = None) -> Found:
    """Find the images to enhance; the results go into the folder `out`.

    Folders are searched with their subfolders, in natural order of the names (2 before 10). Hidden files and folders,
    and `out` itself, are left out. Folders without images and folders that cannot be read are faults. A result has the
    name of its input, with another suffix if its format is another (see `photographs.result_suffix`): "a.jpg", or
    "a.CR2.jpg" if another result is "a.jpg".

    Raises:
        UserError: two results would have the same name, or a result would replace an input.
    """
    found = Found()
    names: list[tuple[str, str, str]] = []  # input, result relative to `out` without its suffix, suffix
    for given in [os.fspath(path) for path in inputs]:
        if os.path.isdir(given):
            skipped, before = Counter[str](), len(names) + len(found.faults)
            for path in _images_below(given, out, skipped, found.faults):
                names.append((path, os.path.splitext(os.path.relpath(path, given))[0], result_suffix(path, format)))
            if len(names) + len(found.faults) == before:
                holds = f"; it holds {listed(skipped)}" if skipped else ""
                looked_for = ", ".join(SUFFIXES)
                found.faults.append((given, f"{given} is a folder without images (looked for {looked_for}){holds}"))
            found.skipped += skipped
        else:
            names.append((given, os.path.splitext(Path(given).name)[0], result_suffix(given, format)))
    kept = Counter(stem + suffix for _, stem, suffix in names)
    for source, stem, suffix in names:
        own = os.path.splitext(source)[1]
        if own != suffix and kept[stem + suffix] > 1:
            stem += own
        found.jobs.append(Job(source, os.path.join(out, stem + suffix),
                              os.path.join(out, f"{stem}_compare{suffix}") if compare else None))
    _require_separate(found.jobs)
    return found


def _images_below(folder: str, out: Path, skipped: Counter[str],
                  faults: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the images below a folder, sorted; count the other files and note the folders that cannot be read."""
    inside = os.path.realpath(out)
    for parent, subfolders, files in os.walk(folder, onerror=lambda error: faults.append(
            (error.filename, f"cannot read the folder {error.filename}: {error.strerror}"))):
        subfolders[:] = sorted((name for name in subfolders if not name.startswith(".")
                                and os.path.realpath(os.path.join(parent, name)) != inside), key=natural)
        for name in sorted(files, key=natural):
            if name.startswith("."):
                continue
            if can_read(name):
                yield os.path.join(parent, name)
            else:
                skipped[_CLASS_OF.get(os.path.splitext(name)[1].lower(), "other files")] += 1


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that puts 2 before 10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def _require_separate(jobs: Iterable[Job]) -> None:
    taken: dict[str, str] = {}
    for job in jobs:
        for target in job.targets:
            if target in taken:
                raise UserError(f"{taken[target]} and {job.source} would both be written to {target}: "
                                "enhance them into different folders")
            taken[target] = job.source
    folder = lru_cache(os.path.realpath)

    def real(path: str) -> str:
        if os.path.islink(path):
            return os.path.realpath(path)
        parent, name = os.path.split(path)
        return os.path.join(folder(parent), name)
    sources = {real(source): source for source in taken.values()}
    for target in taken:
        if (source := sources.get(real(target))) is not None:
            raise UserError(f"the result would replace the input {source}: give another --out")


def listed(skipped: Counter[str]) -> str:
    """Return counts as text: "3 HEIC, 2 RAW, 1 other files", the most frequent first, and what reads them."""
    text = ", ".join(f"{count} {name}" for name, count in skipped.most_common())
    extras = ",".join(extra for name, extra in EXTRAS_OF.items() if name in skipped)
    return f"{text} (to read them: {install_command(extras)})" if extras else text


def remove_leftovers(folders: Iterable[str]) -> None:
    """Remove the temporary files that processes of this machine left in the folders when they were killed."""
    for folder in folders:
        try:
            names = [entry.name for entry in os.scandir(folder)
                     if is_leftover(entry.name) and stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode)]
            for name in names:
                os.unlink(os.path.join(folder, name))
        except OSError:  # not there yet, or not ours; the work does not depend on it
            continue

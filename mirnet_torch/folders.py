"""Find the images in files and folders, say what is left out and why, and where the results go."""
from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Iterator

from mirnet_torch.cli import UserError, is_leftover
from mirnet_torch.images import SUFFIXES
from mirnet_torch.video import VIDEO_SUFFIXES

# Files that hold pictures in formats that are not read here; the summary counts them by these names.
CLASSES = {
    "HEIC": (".heic", ".heif", ".hif"), "AVIF": (".avif",), "JPEG XL": (".jxl",), "GIF": (".gif",),
    "videos": VIDEO_SUFFIXES,
    "RAW": (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw",
            ".rw2", ".rwl", ".srw", ".x3f")}
_CLASS_OF = {suffix: name for name, suffixes in CLASSES.items() for suffix in suffixes}


@dataclass(frozen=True)
class Job:
    """One image to enhance: its file, and where the results go."""

    source: Path
    target: Path
    compare: Path | None

    @property
    def targets(self) -> tuple[Path, ...]:
        """All files that the job writes."""
        return (self.target,) if self.compare is None else (self.target, self.compare)


@dataclass
class Found:
    """What inputs hold: jobs, one message for each input that is none, and how many files are left out, by class."""

    jobs: list[Job] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def find_jobs(inputs: Iterable[str | os.PathLike[str]], out: Path, *, compare: bool) -> Found:
    """Find the images to enhance; the results go into the folder `out`.

    Folders are searched with their subfolders. Hidden files and folders, and `out` itself, are left out. Folders
    without images and folders that cannot be read are faults.

    Raises:
        UserError: two results would have the same name, or a result would replace an input.
    """
    found = Found()
    for given in map(Path, inputs):
        if os.path.isdir(given):  # not Path.is_dir, which raises for names that are too long
            skipped, before = Counter[str](), len(found.jobs) + len(found.faults)
            for path in _images_below(given, out, skipped, found.faults):
                found.jobs.append(_job(path, path.relative_to(given), out, compare))
            if len(found.jobs) + len(found.faults) == before:
                holds = f"; it holds {listed(skipped)}" if skipped else ""
                found.faults.append(f"{given} is a folder without images (looked for {', '.join(SUFFIXES)}){holds}")
            found.skipped += skipped
        else:
            found.jobs.append(_job(given, Path(given.name), out, compare))
    _require_separate(found.jobs)
    return found


def _job(source: Path, name: Path, out: Path, compare: bool) -> Job:
    return Job(source, out / name, out / name.with_name(f"{name.stem}_compare{name.suffix}") if compare else None)


def _images_below(folder: Path, out: Path, skipped: Counter[str], faults: list[str]) -> Iterator[Path]:
    """Yield the images below a folder, sorted; count the other files and note the folders that cannot be read."""
    inside = os.path.realpath(out)
    for parent, subfolders, files in os.walk(folder, onerror=lambda error: faults.append(
            f"cannot read the folder {error.filename}: {error.strerror}")):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".")
                               and os.path.realpath(os.path.join(parent, name)) != inside)
        for name in sorted(files):
            if name.startswith("."):
                continue
            if name.lower().endswith(SUFFIXES):
                yield Path(parent, name)
            else:
                skipped[_CLASS_OF.get(os.path.splitext(name)[1].lower(), "other files")] += 1


def _require_separate(jobs: Iterable[Job]) -> None:
    taken: dict[Path, Path] = {}
    for job in jobs:
        for target in job.targets:
            if target in taken:
                raise UserError(f"{taken[target]} and {job.source} would both be written to {target}: "
                                "enhance them into different folders")
            taken[target] = job.source
    sources = {os.path.realpath(source): source for source in taken.values()}
    for target in taken:
        if (source := sources.get(os.path.realpath(target))) is not None:
            raise UserError(f"the result would replace the input {source}: give another --out")


def listed(skipped: Counter[str]) -> str:
    """Return counts as text: "3 HEIC, 2 RAW, 1 other files", the most frequent first."""
    return ", ".join(f"{count} {name}" for name, count in skipped.most_common())


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove the temporary files that processes of this machine left in the folders when they were killed."""
    for folder in folders:
        try:
            names = [entry.name for entry in os.scandir(folder)
                     if is_leftover(entry.name) and stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode)]
            for name in names:
                os.unlink(folder / name)
        except OSError:  # not there yet, or not ours; the work does not depend on it
            continue

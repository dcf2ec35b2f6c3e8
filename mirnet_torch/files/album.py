"""Enhance many photographs: several at a time, shared among processes, none stopped by another.

Reading, the network and writing of one photograph are one task; some threads each take the next one, so that the disk
and the codecs work beside the network. A file is flushed to the disk before it gets its name, which takes long on
some disks: of small photographs others are computed meanwhile. Processes that torchrun started, on one machine or
several, take every n-th photograph each; at the end the first reports for all.
"""
from __future__ import annotations

import datetime
import os
import sys
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from mirnet_torch.cli import FULL, UserError, atomic_path, fault_of, make_folder, progress
from mirnet_torch.files.deep_images import DEEP_SUFFIXES
from mirnet_torch.files.folders import Found, Job, listed, remove_leftovers
from mirnet_torch.files.images import SUFFIXES, side_by_side, to_8_bits, to_rgb, write_image
from mirnet_torch.files.photographs import read_photograph, write_photograph
from mirnet_torch.processes import keep_freed_memory, rank_and_world, usable_cores

LARGE = 2 ** 25  # pixels; of photographs beyond it one is in memory at a time
SMALL = 2 ** 21  # pixels; photographs up to it wait for the disk while others are computed
LARGEST_POOL = 8  # threads
WAITING = 16  # more threads, for small photographs that wait for the disk
PATIENCE = datetime.timedelta(days=100)  # how long a process waits for the others at the end


@dataclass(frozen=True)
class Task:
    """What to do with every photograph."""

    restore: Callable[[np.ndarray, str], np.ndarray]
    """Pixels, uint8 or uint16, (H, W, 3) or (H, W), and the folder they come from, to restored pixels."""
    channels: int = 3
    """What the network takes."""
    quality: int | None = None
    """See `photographs.write_photograph`."""
    overwrite: bool = False
    skip_existing: bool = False
    threads: int = 1
    """How many photographs at a time, each with one thread of torch; 1: torch uses all its threads."""


@dataclass
class Outcome:
    """What became of the photographs of one process, or of all."""

    done: int = 0
    skipped: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Each input that was not enhanced, and why."""


def usable_threads() -> int:
    """Return how many photographs this process may work on at a time: its share of the machine's cores."""
    return max(min(usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), LARGEST_POOL), 1)


def enhance_all(found: Found, out: Path, task: Task, *, failed_list: Path | None = None) -> str:
    """Do the task for this process's share of the jobs, and return the last line to print ("" but in the first one).

    `failed_list` gets a line for each input that was not enhanced: its name, a tab, the reason. Control characters in
    names are written as in Python. It is empty if there are none.

    Raises:
        UserError: some inputs were not enhanced; the others were.
        OSError: the disk is full, or the list cannot be written.
    """
    rank, world = rank_and_world()
    jobs = found.jobs[rank::world]
    asked = len(found.jobs) + len(found.faults)
    outcome = Outcome(failed=[] if rank else list(found.faults))
    if asked > 1:
        for fault in outcome.failed:
            _report(*fault)
    if jobs:
        make_folder(out)
        keep_freed_memory()
        remove_leftovers({os.path.dirname(job.target) for job in jobs})
    with progress(total=len(jobs), desc="images", unit="image") as bar:
        for job, result in _results(jobs, task):
            bar.update()
            try:
                if result():
                    outcome.done += 1
                else:
                    outcome.skipped += 1
            except Exception as error:
                cause = fault_of(error)
                full = isinstance(error, OSError) and error.errno in FULL  # no other image would fit either
                if cause is None or full:
                    raise
                outcome.failed.append((job.source, cause))
                if asked > 1:
                    _report(job.source, cause)
    outcome = _of_all(outcome)
    if rank:
        return ""
    if failed_list is not None:
        _write_list(failed_list, outcome.failed)
    found.skipped["done before"] += outcome.skipped
    summary = f"{outcome.done} enhanced into {out}"
    if skipped := +found.skipped:
        summary += f"; skipped: {listed(skipped)}"
    if outcome.failed:
        raise UserError(_sentence(*outcome.failed[0]) if asked == 1 else
                        f"{len(outcome.failed)} of {asked} inputs were not enhanced, for the reasons above; {summary}")
    return summary


def _results(jobs: Sequence[Job], task: Task) -> Iterator[tuple[Job, Callable[[], bool]]]:
    """Yield the jobs in their order, each with a function that returns or raises what became of it."""
    gate, turns = threading.Lock(), threading.BoundedSemaphore(task.threads)
    if task.threads == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, lambda: enhance_file(job, task, gate, turns)
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(task.threads + WAITING)
    waiting: deque[tuple[Job, Future[bool]]] = deque()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(enhance_file, job, task, gate, turns)))
            if len(waiting) >= 2 * (task.threads + WAITING):
                first, future = waiting.popleft()
                yield first, future.result
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def enhance_file(job: Job, task: Task, gate: threading.Lock, turns: AbstractContextManager[Any]) -> bool:
    """Enhance one file, and write the comparison if the job names one; return False if its results are there already.

    It takes the gate while it holds a large photograph, and one of the turns until a small one is to be written.

    Raises:
        UserError: the image cannot be read, does not suit the network, or the result cannot be written.
        OSError: the disk fails or is full.
    """
    if task.skip_existing and all(os.path.lexists(target) for target in job.targets):
        return False
    make_folder(os.path.dirname(job.target))
    _check_targets(job, task.overwrite or task.skip_existing)  # some but not all are there: they are made anew
    suffix = os.path.splitext(job.target)[1].lower()
    if os.path.exists(job.source) and suffix not in SUFFIXES:
        read_photograph(job.source)  # raises its own error if this is no image: a new name would not help
        raise UserError(f"{job.source} does not end in {', '.join(SUFFIXES)}: rename it, the result has the same name, "
                        "or give --format")
    with _one_at_a_time(gate) as wait_if_large, ExitStack() as turn:
        turn.enter_context(turns)
        photograph = read_photograph(job.source, deep=suffix in DEEP_SUFFIXES, before_decoding=wait_if_large)
        if task.channels == 1 and photograph.pixels.ndim == 3:
            raise UserError(f"{job.source} is a colour image and the network takes grey ones: convert it first")
        try:
            after = task.restore(photograph.pixels, os.path.dirname(job.source))
        except (ValueError, FloatingPointError) as error:
            raise UserError(f"{job.source}: {error}") from None
        if job.compare is None:
            photograph.pixels = after  # frees the memory of those before
        if after.shape[0] * after.shape[1] <= SMALL:
            turn.close()
        write_photograph(after, photograph, job.target, quality=task.quality)
        if job.compare is not None:
            pair = [to_8_bits(each) if each.dtype == np.uint16 else each for each in (photograph.pixels, after)]
            write_image(side_by_side([to_rgb(Image.fromarray(each)) for each in pair]), job.compare)
    return True


@contextmanager
def _one_at_a_time(gate: threading.Lock) -> Iterator[Callable[[tuple[int, int]], None]]:
    """Yield a function that waits for the gate if a photograph of that size is large; at the end it is left."""
    held: list[bool] = []

    def wait_if_large(size: tuple[int, int]) -> None:
        if size[0] * size[1] > LARGE and not held:
            held.append(gate.acquire())
    try:
        yield wait_if_large
    finally:
        if held:
            gate.release()


def _check_targets(job: Job, overwrite: bool) -> None:
    """Raise a UserError or OSError unless all results of a job can get their names."""
    for target in job.targets:
        try:
            os.lstat(target)
        except FileNotFoundError:
            continue
        if not overwrite:
            raise UserError(f"{target} exists: give --overwrite to replace it, --skip-existing to leave it, or another "
                            "--out")


def _of_all(outcome: Outcome) -> Outcome:
    """Return the outcomes of all processes as one; all wait for the last, since torchrun ends them with the first."""
    if rank_and_world()[1] == 1:
        return outcome
    import torch.distributed as dist

    outcomes: list[Outcome] = [outcome] * dist.get_world_size()
    dist.all_gather_object(outcomes, outcome)
    return Outcome(sum(each.done for each in outcomes), sum(each.skipped for each in outcomes),
                   sorted(fault for each in outcomes for fault in each.failed))


def _sentence(source: str, cause: str) -> str:
    return " ".join((cause if source in cause else f"{source}: {cause}").splitlines())


def _write_list(path: Path, failed: Sequence[tuple[str, str]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", errors="surrogateescape") as file:
        for source, cause in failed:
            name = "".join(letter if letter >= " " else repr(letter)[1:-1] for letter in source)
            file.write(f"{name}\t{' '.join(cause.split())}\n")


def _report(source: str, cause: str) -> None:
    tqdm.write(f"not enhanced: {_sentence(source, cause)}", file=sys.stderr)

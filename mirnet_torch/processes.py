"""Several processes, one per GPU, as torchrun starts them, and what a process has used. PyTorch is imported where it is
needed: a single process that runs a converted network needs none."""
from __future__ import annotations

import contextlib
import datetime
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

import numpy as np

from mirnet_torch.cli import pick_device

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mirnet_torch.presets import Config


@contextlib.contextmanager
def processes(timeout: datetime.timedelta = datetime.timedelta(hours=1)) -> Iterator[None]:
    """Join the other processes if torchrun started this one; each waits for the others as long as `timeout`."""
    if _alone():
        yield
        return
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _alone() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def rank_and_world() -> tuple[int, int]:
    """Return the number of this process, from 0, and the number of processes."""
    if _alone():
        return 0, 1
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def own_device(name: str) -> torch.device:
    """Return the device of a name (see `cli.pick_device`); with several processes, the GPU of this one."""
    import torch

    if rank_and_world()[1] > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return pick_device(name)


def share(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """Return a network whose gradients are the mean over all processes."""
    if rank_and_world()[1] == 1:
        return network
    from torch.nn.parallel import DistributedDataParallel

    from mirnet_torch.model import MIRNetConfig

    # With one column the published network has resamplers that it does not use.
    unused = isinstance(config, MIRNetConfig) and config.width == 1
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None,
                                   broadcast_buffers=False, find_unused_parameters=unused)


def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MB that were freed for what is allocated next.

    glibc gives memory back to the system beyond twice the largest block that it has freed, and every page of it costs
    time when it is taken again: for `photo` thousands of pages a small photograph. So one of the largest blocks that
    count is freed here; nothing is written to it. Other C libraries do not mind.
    """
    np.empty(2 ** 25 - 2 ** 16, np.uint8)


def usable_cores() -> int:
    """Return how many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has had: resident, or allocated on a GPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):  # getrusage counts what the process had before exec, too
        if found := re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text()):
            return 1024 * int(found[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak

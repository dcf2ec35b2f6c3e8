"""Training in several processes, one per GPU, as torchrun starts them. A single process is left as it is."""
from __future__ import annotations

import contextlib
import datetime
import os
from typing import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mirnet_torch.cli import pick_device
from mirnet_torch.model import MIRNetConfig
from mirnet_torch.presets import Config


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Join the other processes if torchrun started this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(hours=1))  # the others wait while one validates
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    """Return the number of this process, from 0, and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def own_device(name: str) -> torch.device:
    """Return the device of a name (see `cli.pick_device`); with several processes, the GPU of this one."""
    if dist.is_initialized() and name in ("auto", "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return pick_device(name)


def share(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """Return a network whose gradients are the mean over all processes."""
    if rank_and_world()[1] == 1:
        return network
    # With one column the published network has resamplers that it does not use.
    unused = isinstance(config, MIRNetConfig) and config.width == 1
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None,
                                   broadcast_buffers=False, find_unused_parameters=unused)

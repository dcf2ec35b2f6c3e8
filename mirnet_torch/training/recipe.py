"""The recipe of training as functions: learning rate, precision, MixUp, averaged weights, frozen weights.

Source: see `train`.
"""
from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Any, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mirnet_torch.cli import UserError
from mirnet_torch.training.options import TrainOptions
from mirnet_torch.training.samples import mixup_draw


def uses_bf16(options: TrainOptions, device: torch.device) -> bool:
    """Return whether the options ask for bfloat16 and the device computes in it fast."""
    if device.type == "cuda":
        return options.bf16 and torch.cuda.is_bf16_supported()
    return options.bf16_on_cpu and device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def learning_rate(options: TrainOptions, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine from `lr` to `lr_min`."""
    steps = options.epochs * steps_per_epoch
    warmup = min(options.warmup_epochs * steps_per_epoch, steps // 2)
    if step < warmup:
        return options.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup - 1)
    return options.lr_min + (options.lr - options.lr_min) * (1 + math.cos(math.pi * done)) / 2


def mix_up(batch: Tensor, options: TrainOptions, *, epoch: int, step: int, rank: int = 0, world: int = 1) -> Tensor:
    """Scale a uint8 batch (b, 2, 3, h, w) to [0, 1]; from epoch `mixup_from` on, blend its pairs with others by MixUp.

    The others come from the batches of all processes. Both images of a pair are blended with the same weight.
    """
    pairs = batch.float() / 255
    if not options.mixup_alpha or epoch < options.mixup_from:
        return pairs
    if world > 1:
        parts = [torch.empty_like(batch) for _ in range(world)]
        dist.all_gather(parts, batch)
        batch = torch.cat(parts)
    partners, shares = mixup_draw(options.mixup_alpha, len(batch), seed=options.seed, step=step)
    own = slice(rank * options.patches, (rank + 1) * options.patches)
    others = batch[partners[own].to(batch.device)].float() / 255
    return torch.lerp(others, pairs, shares[own, None].to(batch.device))


def update_average(average: Any, current: Any, updates: Any, *, decay: float) -> None:
    """Move the averaged weights towards the current ones; faster at first, while they are still close to untrained."""
    done = int(updates)
    get_ema_multi_avg_fn(min(decay, (1 + done) / (10 + done)))(average, current, updates)


def freeze(network: nn.Module, patterns: Sequence[str]) -> int:
    """Exclude parameters from training, and return how many numbers they hold.

    Args:
        network: the network; a parameter that it holds under several names is frozen by each of them.
        patterns: names of parameters or modules, with * and ? as in a shell.

    Raises:
        UserError: a pattern fits no parameter, or nothing would be left to train.
    """
    named = list(network.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        fitting = [parameter for name, parameter in named
                   if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
        if not fitting:
            tops = ", ".join(name for name, _ in network.named_children())
            raise UserError(f"--freeze {pattern} fits no parameter: the parts of this network are {tops}, and its "
                            f"parameters have names like {named[0][0]} and {named[len(named) // 2][0]}")
        for parameter in fitting:
            parameter.requires_grad_(False)
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    if len(frozen) == len(list(network.parameters())):
        raise UserError(f"--freeze {' --freeze '.join(patterns)} leaves nothing to train")
    return sum(parameter.numel() for parameter in frozen)

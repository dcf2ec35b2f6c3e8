"""Training in less memory: keep only the inputs of the network's blocks and compute the rest again for the gradient.

    checkpoint_activations(model)                   same gradients, about a third more time
    python -m mirnet_torch.activations              how much memory and time, measured on a small step and scaled

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174. The blocks are the units of the
paper: attention units, fusions, resamplers. Larger ones (a whole MSRB) need more memory while they are computed again,
nested ones are computed twice.
"""
from __future__ import annotations

import functools
import os
import statistics
import sys
import time
from typing import Callable, Sequence

import torch
from torch.utils.checkpoint import checkpoint

from mirnet_torch.cli import Parser, program, run_command
from mirnet_torch.compact import CompactMIRNet, HardSKFF
from mirnet_torch.model import DAU, SKFF, Resample, parameter_count
from mirnet_torch.presets import PRESETS, Network, create_model
from mirnet_torch.training.losses import restoration_loss

BLOCKS = (DAU, SKFF, HardSKFF, Resample)
COPIES = 5  # of the weights in training: themselves, gradient, two of Adam, average
ADVICE = "--batch, --patch: the step that is measured; --as-batch, --as-patch: the one it is scaled to"


def checkpoint_activations(model: Network) -> None:
    """Let the blocks of a network keep only their inputs for the gradient. Outputs and gradients stay the same."""
    def forgetful(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return functools.partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)  # none is random
    for module in model.modules():
        if isinstance(module, BLOCKS):
            setattr(module, "forward", forgetful(module.forward))
    if isinstance(model, CompactMIRNet):
        recolour = forgetful(model.recolour)

        def picture_by_picture(image: torch.Tensor, factors: torch.Tensor, *, exposure: float = 0.0) -> torch.Tensor:
            """Recolour one picture after the other: here the tensors are those of pixels, far more than of cells."""
            return torch.cat([recolour(*each, exposure=exposure) for each in zip(image.split(1), factors.split(1))])
        setattr(model, "recolour", picture_by_picture)


def peak_bytes(step: Callable[[], None]) -> int:
    """Return how many bytes of CPU memory are allocated at most while a step runs, beyond those at its start."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its lines on standard error
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def training_step(model: Network, batch: int, patch: int) -> Callable[[], None]:
    """Return a function that adds the gradient of one batch of noise, `patch` pixels wide and high."""
    low, high = torch.rand(2, batch, 3, patch, patch, generator=torch.Generator().manual_seed(0))
    low = low.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        restoration_loss(model(low), high, eps=1e-3).backward()
    return step


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a step with and without, interleaved, and print memory and time."""
    parser = Parser(prog=program("activations", "python -m mirnet_torch.activations"),
                    description="Measure what --checkpoint-activations of the training saves and "
                                "costs, on the CPU.", epilog=ADVICE)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="paper")
    for name, default in (("--batch", 2), ("--patch", 64), ("--as-batch", 16), ("--as-patch", 128), ("--repeats", 3)):
        parser.add_argument(name, type=int, default=default, metavar="N", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in ("batch", "patch", "as_batch", "as_patch", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"argument --{name.replace('_', '-')}: must be 1 or more, not {getattr(options, name)}")
    torch.manual_seed(0)
    models = {name: create_model(options.preset).to(memory_format=torch.channels_last)
              for name in ("all activations kept", "checkpointed")}
    checkpoint_activations(models["checkpointed"])
    steps = {name: training_step(model, options.batch, options.patch) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # makes the gradients, which then stay
    for _ in range(options.repeats):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    scale = options.as_batch * options.as_patch ** 2 / (options.batch * options.patch ** 2)
    weights = COPIES * 4 * parameter_count(models["checkpointed"])
    print(f"{options.preset}, float32, {options.batch} patches of {options.patch}x{options.patch}; scaled to "
          f"{options.as_batch} of {options.as_patch}x{options.as_patch}, with {weights / 1e9:.2f} GB for weights, "
          "gradient, Adam and average")
    for name, step in steps.items():
        peak = peak_bytes(step)
        print(f"  {name:22s} {peak / 1e6:8.1f} MB, {statistics.median(seconds[name]):.2f} s of processor time; scaled "
              f"{(scale * peak + weights) / 1e9:6.1f} GB")
    ratios = [after / before for before, after in zip(*seconds.values())]
    print(f"  time: x {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f} in "
          f"{options.repeats} interleaved pairs)")


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Measure on this machine what the published network costs, plain and as this package runs it: the command

    python -m mirnet_torch.benchmark [--size 256x256] [--repeats 3] [--patch 96x96 --batch 2] [--device cpu]

*Plain* is `MIRNet.forward` as PyTorch stores and runs it by default, channels first, which is what the published code
does. *Ours* is `inference.restore`, which `enhance` and `evaluate` use, and for a training step the plain forward and
backward pass channels-last, as `train` runs it. Weights are random; they do not change the cost.

Each way runs in a process of its own. They take turns, so that other load on the machine meets both alike; figures are
medians, with the range in brackets. *Wall* is what you wait, *processor* the time of all cores together, which other
load changes less. *Memory* of a CPU is how far the process's peak of resident memory rises above the peak of a pass of
16x16 pixels before it, so it counts activations and the scratch memory of the libraries, but not weights; on a GPU it
is the same of PyTorch's allocated memory.
"""
from __future__ import annotations

import argparse
import functools
import multiprocessing
import statistics
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Callable, NamedTuple, Sequence

import torch
from torch import Tensor

from mirnet_torch.cli import Parser, Size, UserError, add_device_option, parse_size, pick_device, program, run_command
from mirnet_torch.model import MIRNet, MIRNetConfig
from mirnet_torch.presets import PRESETS
from mirnet_torch.processes import peak_memory
from mirnet_torch.restoration import inference

Pass = Callable[[Tensor], Tensor]  # an image (B, C, H, W) in, what the network makes of it out
WARM_UP = 16  # pixels a side of the pass before the first measurement
MEBIBYTE = 2 ** 20


@dataclass(frozen=True)
class Job:
    """What is measured: a network, and the shape of its input."""

    config: MIRNetConfig
    size: Size  # (width, height)
    batch: int
    device: torch.device

    def image(self, size: Size) -> Tensor:
        """Return a random image, the same in every process."""
        generator = torch.Generator().manual_seed(1)
        image = torch.rand(self.batch, self.config.in_channels, size[1], size[0], generator=generator)
        return image.to(self.device)

    def network(self) -> MIRNet:
        """Return a network with random weights, the same in every process."""
        torch.manual_seed(0)
        return MIRNet(self.config).to(self.device)


class Run(NamedTuple):
    """What one pass took, in seconds."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Costs:
    """What one way of computing takes."""

    runs: list[Run]
    memory: int  # bytes
    output: Tensor  # of the first pass, on the CPU


def plain_pass(job: Job) -> Pass:
    """Return the plain forward pass."""
    return torch.no_grad()(job.network().eval())


def our_pass(job: Job) -> Pass:
    """Return the forward pass of `enhance`."""
    return functools.partial(inference.restore, job.network().eval())


def plain_step(job: Job) -> Pass:
    """Return a training step, channels first."""
    return _step(job, torch.contiguous_format)


def our_step(job: Job) -> Pass:
    """Return a training step as `train` takes it."""
    return _step(job, torch.channels_last)


def _step(job: Job, memory_format: torch.memory_format) -> Pass:
    model = job.network().to(memory_format=memory_format)
    optimizer = torch.optim.Adam(model.parameters(), 1e-6)

    def step(image: Tensor) -> Tensor:
        output = model(image.contiguous(memory_format=memory_format))
        loss = (output - image).square().add(1e-6).sqrt().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return output.detach()

    return step


def measure(job: Job, ways: Sequence[Callable[[Job], Pass]], *, repeats: int) -> list[Costs]:
    """Run several ways of one job in turn, each in its own process.

    Args:
        ways: functions that build a pass; a process imports them by name.
        repeats: timed runs of each; one more, which is not timed, comes first.

    Raises:
        UserError: a process ended, most likely for want of memory.
    """
    context = multiprocessing.get_context("spawn")
    workers, connections = [], []
    try:
        for way in ways:
            ours, theirs = context.Pipe()
            workers.append(context.Process(target=_work, args=(theirs, way, job), daemon=True))
            workers[-1].start()
            theirs.close()
            connections.append(ours)
        first = [_ask(connection) for connection in connections]
        runs = [[Run(*_ask(connection)) for connection in connections] for _ in range(repeats)]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return [Costs([turn[way] for turn in runs], memory, output) for way, (memory, output) in enumerate(first)]


def _ask(connection: Connection) -> tuple:
    """Let a process do its next pass and return what it reports."""
    try:
        connection.send(None)
        return connection.recv()
    except (EOFError, ConnectionError):
        raise UserError("a process of the benchmark ended, most likely out of memory: give a smaller --size, --patch "
                        "or --batch") from None


def _work(connection: Connection, way: Callable[[Job], Pass], job: Job) -> None:
    """Do one pass for every message; report memory and output of the first, the time of the others."""
    connection.recv()
    compute = way(job)
    compute(job.image((WARM_UP, WARM_UP)))
    image, before = job.image(job.size), peak_memory(job.device)
    output = compute(image)
    connection.send((peak_memory(job.device) - before, output.cpu().numpy()))
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        wall, processor = time.perf_counter(), time.process_time()
        compute(image)
        finish(job.device)
        connection.send(Run(time.perf_counter() - wall, time.process_time() - processor))


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def report(title: str, plain: Costs, ours: Costs) -> str:
    """Return a table of two ways and their ratios; a ratio is taken of runs that followed each other."""
    lines = [f"{title:34} {'wall, s':>20} {'processor, s':>20} {'memory, MiB':>12}"]
    for name, costs in (("plain, channels first", plain), ("ours", ours)):
        wall, processor = (_spread(list(figures)) for figures in zip(*costs.runs))
        lines.append(f"  {name:32} {wall:>20} {processor:>20} {costs.memory / MEBIBYTE:12.0f}")
    wall, processor = (_spread([a / b for a, b in zip(plain_figures, our_figures)])
                       for plain_figures, our_figures in zip(zip(*plain.runs), zip(*ours.runs)))
    share = f"{ours.memory / plain.memory:.0%} of it" if plain.memory else "-"
    lines.append(f"  {'ours is faster by a factor of':32} {wall:>20} {processor:>20} {share:>12}")
    return "\n".join(lines)


def _spread(figures: Sequence[float]) -> str:
    return f"{statistics.median(figures):.2f} ({min(figures):.2f}-{max(figures):.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        UserError: there is no such device, or not enough memory.
    """
    parser = Parser(prog=program("benchmark", "python -m mirnet_torch.benchmark"), description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    published = [name for name, config in PRESETS.items() if isinstance(config, MIRNetConfig)]
    parser.add_argument("--preset", choices=published, default="paper", help="network (default: %(default)s)")
    parser.add_argument("--size", type=parse_size, default=(256, 256), metavar="WIDTHxHEIGHT",
                        help="of the image to restore (default: 256x256)")
    parser.add_argument("--patch", type=parse_size, default=(96, 96), metavar="WIDTHxHEIGHT",
                        help="of the patches of a training step (default: 96x96)")
    parser.add_argument("--batch", type=int, default=2, metavar="N", help="patches of a training step (default: 2); "
                                                                          "0: no training step is measured")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="timed runs of each (default: 3)")
    add_device_option(parser)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"argument --repeats: must be 1 or more, not {options.repeats}")
    if options.batch < 0:
        parser.error(f"argument --batch: must be 0 or more, not {options.batch}")
    device, config = pick_device(options.device), PRESETS[options.preset]
    assert isinstance(config, MIRNetConfig)
    where = (torch.cuda.get_device_name(device) if device.type == "cuda" else
             f"{torch.get_num_threads()} threads of the CPU")
    print(f"{options.preset}, float32, {where}, PyTorch {torch.__version__}; medians of {options.repeats} runs",
          flush=True)
    plain, ours = measure(Job(config, options.size, 1, device), (plain_pass, our_pass), repeats=options.repeats)
    print(report(f"{options.size[0]}x{options.size[1]}", plain, ours))
    print(f"  largest difference of the outputs: {abs(plain.output - ours.output).max():.1e}", flush=True)
    if options.batch:
        job = Job(config, options.patch, options.batch, device)
        plain, ours = measure(job, (plain_step, our_step), repeats=options.repeats)
        print(report(f"training step, {options.batch} of {options.patch[0]}x{options.patch[1]}", plain, ours))


if __name__ == "__main__":
    sys.exit(run_command(main))

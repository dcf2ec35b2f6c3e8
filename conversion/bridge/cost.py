"""What a `.tflite` costs: multiply-accumulates, instructions, weights, activations, tensor lifetimes, arena and flash.

The arena is predicted as TensorFlow Lite Micro lays it out (`micro_allocation_info.cpp`, `greedy_memory_planner.cpp`
and the allocators of the library that the board runs, TFLM of February 2023 with CMSIS-NN):

* head: activations and scratch buffers, each rounded up to 16 bytes and alive from the operator that makes it to the
  last that reads it, placed by the greedy planner: largest first, each at the lowest gap free for its whole life;
* tail: what the interpreter keeps about tensors, operators and kernels; see `_persistent_bytes`.

`floor_bytes` is what no planner can undercut: the largest sum of buffers that live at the same time.

Instructions are predicted for a Cortex-M4 and the kernels of the same library, not the sketch's own, compiled and
linked as Arduino does (-Os) or with -O2. The loops of every kernel follow its source; the instructions of one pass
through each are fitted, by least squares of relative errors, to what an emulated Cortex-M4 counts for some 560
operators (firmware/emulator, `make counts FIT=1`). Seven MIRNets that were not fitted, 79 to 191 million instructions,
added up from their operators, are within 0.2 %; single operators of shapes that were not fitted are within 9 %. The
model that ships, run as a whole, is within 0.2 % (-Os) and 0.4 % (-O2), its kinds of operators over 2 % of the whole
within 2 %. Values matter little: between dark, black, white and noisy frames it differs by 0.3 %, between networks a
MUL by up to 7 %. Dilation is taken as 1, pooling as without padding.
"""
from __future__ import annotations

import functools
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from conversion.bridge.graph import Graph, Operator

ALIGNMENT = 16  # MicroArenaBufferAlignment() of TFLM
LEVELS = ("Os", "O2")  # of optimisation of the library: as Arduino builds it; a quarter fewer instructions


@dataclass(frozen=True)
class OperatorCost:
    """One operator: its work and the bytes it touches. `activation_bytes` are those of its inputs and its output."""

    operator: Operator
    macs: int
    weight_bytes: int
    activation_bytes: int
    instructions: int  # predicted, on a Cortex-M4
    calibrated: bool  # instructions rest on counts of this kind of operator; otherwise they are a rough estimate


@dataclass(frozen=True)
class Buffer:
    """A piece of the arena, `nbytes` from `offset` on, alive from operator `first` to `last` (both included)."""

    name: str
    first: int
    last: int
    nbytes: int  # rounded up to the alignment
    offset: int = -1
    scratch: bool = False  # a kernel's own working memory

    def lives_with(self, other: Buffer) -> bool:
        """Return whether both must exist at some moment."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Cost:
    """The cost of a graph, in multiply-accumulates, instructions and bytes."""

    operators: tuple[OperatorCost, ...]
    buffers: tuple[Buffer, ...]  # as placed by the greedy planner
    macs: int
    instructions: int  # predicted, on a Cortex-M4
    weight_bytes: int
    floor_bytes: int  # no plan of the head is smaller
    floor_operator: int  # the operator that needs floor_bytes
    head_bytes: int  # the greedy plan
    tail_bytes: int  # persistent part on a 32-bit target
    flash_bytes: int  # the .tflite
    optimisation: str  # of the library, to which `instructions` belong: one of LEVELS

    @property
    def arena_bytes(self) -> int:
        """What the interpreter on a 32-bit target uses of its arena."""
        return self.head_bytes + self.tail_bytes

    def by_kind(self) -> dict[str, int]:
        """Sum the predicted instructions of every kind of operator, the most expensive first."""
        total: Counter[str] = Counter()
        for item in self.operators:
            total[item.operator.name] += item.instructions
        return dict(total.most_common())

    def largest(self, count: int = 3) -> list[Buffer]:
        """The largest of the buffers that are alive at `floor_operator`."""
        alive = [buffer for buffer in self.buffers if buffer.first <= self.floor_operator <= buffer.last]
        return sorted(alive, key=lambda buffer: -buffer.nbytes)[:count]


def cost(graph: Graph, *, cmsis_nn: bool = True, optimisation: str = "Os") -> Cost:
    """Return what a graph costs.

    Args:
        graph: what `read_graph` returns.
        cmsis_nn: with the scratch buffers that CMSIS-NN's kernels ask for on a Cortex-M4; without, those of TFLM's
            reference kernels, as in the tflite-micro package on a computer.
        optimisation: how the library is compiled, one of `LEVELS`; decides the instructions only.
    """
    operators = tuple(OperatorCost(operator, macs(operator), sum(t.nbytes for t in operator.weights),
                                   sum(t.nbytes for t in (*operator.operands, *operator.outputs)),
                                   instructions(operator, optimisation), calibrated(operator))
                      for operator in graph.operators)
    buffers = place(lifetimes(graph, cmsis_nn=cmsis_nn))
    live = [sum(buffer.nbytes for buffer in buffers if buffer.first <= moment <= buffer.last)
            for moment in range(max(len(graph.operators), 1))]
    floor = max(live)
    return Cost(operators=operators, buffers=buffers, macs=sum(item.macs for item in operators),
                instructions=sum(item.instructions for item in operators),
                weight_bytes=sum(t.nbytes for t in graph.tensors if t.constant), floor_bytes=floor,
                floor_operator=live.index(floor),
                head_bytes=max((buffer.offset + buffer.nbytes for buffer in buffers), default=0),
                tail_bytes=_persistent_bytes(graph, sum(buffer.scratch for buffer in buffers)),
                flash_bytes=graph.size, optimisation=optimisation)


def macs(operator: Operator) -> int:
    """Count an operator's multiply-accumulates; 0 for operators without weights."""
    if not operator.outputs or len(operator.inputs) < 2 or operator.inputs[1] is None:
        return 0
    weights, output = operator.inputs[1], operator.outputs[0]
    if operator.name in ("CONV_2D", "FULLY_CONNECTED"):  # weights (out, ..., in): every output sees one filter
        return math.prod(output.shape) * math.prod(weights.shape[1:])
    if operator.name == "DEPTHWISE_CONV_2D":  # weights (1, height, width, channels)
        return math.prod(output.shape) * math.prod(weights.shape[1:3])
    if operator.name == "TRANSPOSE_CONV":  # every input position meets all the weights; inputs: shape, weights, map
        source = operator.inputs[2]
        return 0 if source is None else math.prod(source.shape[:3]) * math.prod(weights.shape)
    if operator.name == "BATCH_MATMUL":
        return math.prod(output.shape) * weights.shape[-2]
    return 0


def lifetimes(graph: Graph, *, cmsis_nn: bool = True) -> tuple[Buffer, ...]:
    """List the buffers of the head, not yet placed, in the order in which TFLM hands them to its planner."""
    last = max(len(graph.operators) - 1, 0)
    first_made = {tensor.index: 0 for tensor in graph.inputs}
    last_used = dict(first_made)
    for operator in graph.operators:
        for tensor in operator.outputs:
            first_made.setdefault(tensor.index, operator.index)
            last_used[tensor.index] = operator.index
        for tensor in operator.operands:
            last_used[tensor.index] = operator.index
    for tensor in graph.outputs:
        last_used[tensor.index] = last
    activations = [Buffer(graph.tensors[index].name, first_made[index], last_used[index],
                          _aligned(graph.tensors[index].nbytes))
                   for index in sorted(first_made) if graph.tensors[index].nbytes]
    scratch = [Buffer(f"scratch of {operator.name} {operator.index}", operator.index, operator.index, _aligned(nbytes),
                      scratch=True)
               for operator in graph.operators for nbytes in scratch_bytes(operator, cmsis_nn=cmsis_nn)]
    return tuple(activations + scratch)


def place(buffers: Sequence[Buffer]) -> tuple[Buffer, ...]:
    """Give every buffer its offset as TFLM's GreedyMemoryPlanner does; the order of the list is kept."""
    # The planner lists the buffers from the last to the first and sorts by size, keeping the order of equal ones.
    order = sorted(reversed(range(len(buffers))), key=lambda index: -buffers[index].nbytes)
    offsets: dict[int, int] = {}
    for index in order:
        wanted = buffers[index]
        offset = 0
        neighbours = sorted((offsets[i], buffers[i].nbytes) for i in offsets if buffers[i].lives_with(wanted))
        for start, nbytes in neighbours:
            if start - offset >= wanted.nbytes:
                break
            offset = max(offset, start + nbytes)
        offsets[index] = offset
    return tuple(Buffer(b.name, b.first, b.last, b.nbytes, offsets[i], b.scratch) for i, b in enumerate(buffers))


def scratch_bytes(operator: Operator, *, cmsis_nn: bool = True) -> list[int]:
    """Return the sizes of the working buffers that an int8 kernel requests; with CMSIS-NN those for Cortex-M4."""
    tensors = operator.inputs
    if operator.name == "REDUCE_MAX" and tensors[0] is not None and tensors[1] is not None:  # counters and axes
        return [4 * len(tensors[0].shape), 4 * math.prod(tensors[1].shape)]
    if operator.name in ("MEAN", "SUM", "TRANSPOSE_CONV"):  # 32-bit sums
        return [4 * math.prod(operator.outputs[0].shape)]
    if not cmsis_nn:
        return []
    if operator.name == "CONV_2D" and tensors[1] is not None:
        height, width, channels = tensors[1].shape[1:]
        # 1x1 with stride 1 reads the map itself; all others unfold two positions to 16 bits.
        return [] if (height, width, operator.strides) == (1, 1, (1, 1)) else [4 * height * width * channels]
    if operator.name == "DEPTHWISE_CONV_2D" and tensors[1] is not None:
        height, width, channels = tensors[1].shape[1:]
        return [2 * height * width * channels]
    if operator.name == "AVERAGE_POOL_2D":
        return [4 * operator.outputs[0].shape[3]]
    return []


def _aligned(nbytes: int, alignment: int = ALIGNMENT) -> int:
    return -(-nbytes // alignment) * alignment


# Bytes that the library keeps for one operator on a Cortex-M4: its options and, rounded up, its kernel's state.
_STATE = {"ADD": 68, "AVERAGE_POOL_2D": 88, "CONCATENATION": 40, "CONV_2D": 88, "DEPTHWISE_CONV_2D": 92,
          "DEPTH_TO_SPACE": 4, "MAX_POOL_2D": 88, "MUL": 52, "PAD": 64, "REDUCE_MAX": 52, "RELU": 32, "RELU6": 16,
          "RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4, "SOFTMAX": 100, "SPACE_TO_DEPTH": 4, "SUB": 68,
          "TRANSPOSE_CONV": 96}
_OTHER_STATE = 128
_INTERPRETER, _TENSOR, _OPERATOR, _HANDLE = 512, 12, 44, 4  # allocators, input and output; sizeof of three structs


def _persistent_bytes(graph: Graph, scratch_buffers: int) -> int:
    """Bound the tail of the arena on a 32-bit target from above; measured on a Cortex-M4 it is some 200 bytes less."""
    total = _INTERPRETER + _TENSOR * len(graph.tensors) + _HANDLE * scratch_buffers
    for operator in graph.operators:
        total += _OPERATOR + _STATE.get(operator.name, _OTHER_STATE)
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):  # multipliers and shifts per channel
            total += 2 * _aligned(4 * operator.outputs[0].shape[-1])
    return _aligned(total)


# What follows predicts instructions: the passes through each loop of a kernel, which the shapes tell, times the
# instructions of one pass, which were fitted to counts.


def instructions(operator: Operator, optimisation: str = "Os") -> int:
    """Predict how many instructions a Cortex-M4 executes for an operator; a rough guess where not `calibrated`."""
    kernel, counts = passes(operator)
    prices = coefficients()[optimisation].get(kernel)
    if prices is not None:
        return round(sum(price * count for price, count in zip(prices, counts, strict=True)))
    elements = max((math.prod(tensor.shape) for tensor in (*operator.operands, *operator.outputs)), default=0)
    return _OTHER_PER_ELEMENT * elements + _OTHER_PER_MAC * macs(operator)


def calibrated(operator: Operator) -> bool:
    """Return whether `instructions` rests on counts of the kernel that runs the operator."""
    return passes(operator)[0] in coefficients()["Os"]


def passes(operator: Operator) -> tuple[str, tuple[int, ...]]:
    """Name the int8 kernel that runs an operator and count the passes through its loops, first the call itself."""
    inputs = [tensor for tensor in operator.inputs if tensor is not None]
    if not inputs or not operator.outputs or any(t.dtype != "int8" for t in (*operator.operands, *operator.outputs)):
        return "", ()
    name, first, out = operator.name, inputs[0].shape, operator.outputs[0].shape
    size, positions = math.prod(out), math.prod(out[:-1])
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return _conv_passes(operator) if name == "CONV_2D" else _depthwise_passes(operator)
    if name == "TRANSPOSE_CONV":
        return name, (1, math.prod(inputs[2].shape), macs(operator), size)
    if name in ("ADD", "MUL", "SUB"):
        if _trimmed(first) != _trimmed(inputs[1].shape):
            return f"{name} broadcast", (1, size, positions)
        return name, ((1, size) if name == "SUB" else (1, size // 4, size % 4))  # CMSIS-NN takes four at a time
    if name == "REDUCE_MAX":  # the index of every value is computed anew, and compared with every axis
        read = math.prod(first)
        return name, (1, read, read * math.prod(inputs[1].shape), read // first[-1])
    if name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):  # the first tap is copied, the others are added or compared
        taps = _taps(operator, pooling_window(operator))[0]
        return name, (1, positions, taps, (taps - positions) * out[-1], size)
    if name == "CONCATENATION":  # one memcpy per piece: 64 bytes unrolled, then 16, then 4, then the rest
        axis = next((i for i, (whole, part) in enumerate(zip(out, first)) if whole != part), 0)
        outer, pieces = math.prod(out[:axis]), [math.prod(tensor.shape[axis:]) for tensor in inputs]
        return name, (1, len(pieces), outer, *(outer * sum(map(count, pieces)) for count in _MEMCPY))
    if name == "PAD":  # the test for padding ends at the axis that is padded
        if len(out) != 4:
            return "", ()
        (_, height, width, depth), (_, tall, wide, deep) = first, out
        return name, (1, positions, math.prod(first), (tall - height) * wide * deep, height * (wide - width) * deep,
                      height * width * (deep - depth))
    if name == "RESIZE_BILINEAR":
        return name, (1, size, positions, positions // out[-2])
    if name == "RESIZE_NEAREST_NEIGHBOR":
        return name, (1, *(positions * count(out[-1]) for count in _MEMCPY))
    if name in ("DEPTH_TO_SPACE", "SOFTMAX"):
        return name, (1, size, positions)
    if name == "SPACE_TO_DEPTH":
        return name, (1, size, math.prod(first[:-1]))
    return name, (1, size)


# How often memcpy goes through its loops for so many bytes, and once for the call.
_MEMCPY = (lambda n: 1, lambda n: n // 64, lambda n: n % 64 // 16, lambda n: n % 16 // 4, lambda n: n % 4)


def _conv_passes(operator: Operator) -> tuple[str, tuple[int, ...]]:
    source, weights, out = (tensor.shape for tensor in (*operator.inputs[:2], operator.outputs[0]) if tensor)
    height, width, depth = weights[1:]
    positions = math.prod(out[:-1])
    pairs, odd = divmod(out[-1], 2)  # two output channels are computed together
    both, last = divmod(positions, 2)  # for two positions at once
    if (height, width, operator.strides) == (1, 1, (1, 1)):
        blocks, rest = divmod(depth, 16)  # 16 inputs unrolled, the rest one by one
        return "CONV_2D 1x1", (1, pairs, pairs * depth, both * pairs, both * pairs * blocks, both * pairs * rest,
                               last * pairs, last * pairs * blocks, last * pairs * rest,
                               odd * positions, odd * positions * depth)
    # Two positions are unfolded to 16 bits, tap by tap, then multiplied with the weights, four at a time.
    taps, _ = _taps(operator, (height, width))
    outside = positions * height * width - taps
    blocks, rest = divmod(height * width * depth, 4)
    return "CONV_2D", (1, positions, positions * height, taps, taps * (depth // 4), taps * (depth % 4),
                       outside, outside * depth, both * pairs, both * pairs * blocks, both * pairs * rest,
                       both * odd, both * odd * blocks, both * odd * rest,
                       last * out[-1], last * out[-1] * blocks, last * out[-1] * rest)


def _depthwise_passes(operator: Operator) -> tuple[str, tuple[int, ...]]:
    source, weights, out = (tensor.shape for tensor in (*operator.inputs[:2], operator.outputs[0]) if tensor)
    height, width, channels = weights[1:]
    positions = math.prod(out[:-1])
    taps, lines = _taps(operator, (height, width))
    if channels != source[-1]:
        kernel = "by 4" if channels // source[-1] % 4 == 0 else "by any"
        return f"{operator.name} {kernel}", (1, positions, positions * channels, lines * channels, taps * channels)
    fours, rest = divmod(channels, 4)
    if (height, width) == (3, 3):
        return f"{operator.name} 3x3", (1, positions, positions * fours, taps * fours, positions * rest, taps * rest)
    area = positions * height * width  # unfolded to 16 bits, padding included
    return operator.name, (1, lines, taps, positions * fours, area * fours, positions * rest, area * rest)


def _taps(operator: Operator, window: Sequence[int]) -> tuple[int, int]:
    """Count the window's taps, and its rows, that lie inside the input map, over all output positions."""
    assert operator.inputs[0] is not None
    source, out = operator.inputs[0].shape, operator.outputs[0].shape
    inside = []
    for size, steps, length, stride in zip(source[1:3], out[1:3], window, operator.strides):
        before = max((steps - 1) * stride + length - size, 0) // 2
        inside.append(sum(min(length, size + before - i * stride) - max(0, before - i * stride) for i in range(steps)))
    return inside[0] * inside[1], inside[0] * out[2]


def pooling_window(operator: Operator) -> tuple[int, ...]:
    """Infer the window of a pooling without padding: its stride if that tiles the map, else the largest possible."""
    assert operator.inputs[0] is not None
    source, out = operator.inputs[0].shape, operator.outputs[0].shape
    largest = [max(size - (steps - 1) * stride, 1) for size, steps, stride in zip(source[1:3], out[1:3],
                                                                                  operator.strides)]
    return tuple(stride if steps > 1 and 0 <= most - stride < stride else most
                 for steps, stride, most in zip(out[1:3], operator.strides, largest))


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[next((i for i, side in enumerate(shape) if side != 1), len(shape)):]


@functools.cache
def coefficients() -> dict[str, dict[str, list[float]]]:
    """Read the instructions of a pass, by level and kernel, in the order of `passes`; `make counts FIT=1` fits them."""
    content = json.loads((Path(__file__).parent / "cortex_m4.json").read_text())
    return {level: content[level] for level in LEVELS}


_OTHER_PER_ELEMENT, _OTHER_PER_MAC = 100, 10  # of the order of reference kernels

"""What a `.tflite` costs: multiply-accumulates, weights, activations, tensor lifetimes, arena and flash.

The arena is predicted as TensorFlow Lite Micro lays it out (`micro_allocation_info.cpp`, `greedy_memory_planner.cpp`
and the allocators of the library that the board runs, TFLM of February 2023 with CMSIS-NN):

* head: activations and scratch buffers, each rounded up to 16 bytes and alive from the operator that makes it to the
  last that reads it, placed by the greedy planner: largest first, each at the lowest gap free for its whole life;
* tail: what the interpreter keeps about tensors, operators and kernels; see `_persistent_bytes`.

`floor_bytes` is what no planner can undercut: the largest sum of buffers that live at the same time.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

from conversion.graph import Graph, Operator

ALIGNMENT = 16  # MicroArenaBufferAlignment() of TFLM


@dataclass(frozen=True)
class OperatorCost:
    """One operator: its work and the bytes it touches. `activation_bytes` are those of its inputs and its output."""

    operator: Operator
    macs: int
    weight_bytes: int
    activation_bytes: int


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
        """Tell whether both must exist at some moment."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Cost:
    """The cost of a graph, in multiply-accumulates and bytes."""

    operators: tuple[OperatorCost, ...]
    buffers: tuple[Buffer, ...]  # as placed by the greedy planner
    macs: int
    weight_bytes: int
    floor_bytes: int  # no plan of the head is smaller
    floor_operator: int  # the operator that needs floor_bytes
    head_bytes: int  # the greedy plan
    tail_bytes: int  # persistent part on a 32-bit target
    flash_bytes: int  # the .tflite

    @property
    def arena_bytes(self) -> int:
        """What the interpreter on a 32-bit target uses of its arena."""
        return self.head_bytes + self.tail_bytes

    def largest(self, count: int = 3) -> list[Buffer]:
        """The largest of the buffers that are alive at `floor_operator`."""
        alive = [buffer for buffer in self.buffers if buffer.first <= self.floor_operator <= buffer.last]
        return sorted(alive, key=lambda buffer: -buffer.nbytes)[:count]


def cost(graph: Graph, *, cmsis_nn: bool = True) -> Cost:
    """Weigh a graph.

    Args:
        graph: what `read_graph` returns.
        cmsis_nn: with the scratch buffers that CMSIS-NN's kernels ask for on a Cortex-M4; without, those of TFLM's
            reference kernels, as in the tflite-micro package on a computer.
    """
    operators = tuple(OperatorCost(operator, macs(operator), sum(t.nbytes for t in operator.weights),
                                   sum(t.nbytes for t in (*operator.operands, *operator.outputs)))
                      for operator in graph.operators)
    buffers = place(lifetimes(graph, cmsis_nn=cmsis_nn))
    live = [sum(buffer.nbytes for buffer in buffers if buffer.first <= moment <= buffer.last)
            for moment in range(max(len(graph.operators), 1))]
    floor = max(live)
    return Cost(operators=operators, buffers=buffers, macs=sum(item.macs for item in operators),
                weight_bytes=sum(t.nbytes for t in graph.tensors if t.constant), floor_bytes=floor,
                floor_operator=live.index(floor),
                head_bytes=max((buffer.offset + buffer.nbytes for buffer in buffers), default=0),
                tail_bytes=_persistent_bytes(graph, sum(buffer.scratch for buffer in buffers)),
                flash_bytes=graph.size)


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
        rivals = sorted((offsets[i], buffers[i].nbytes) for i in offsets if buffers[i].lives_with(wanted))
        for start, nbytes in rivals:
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

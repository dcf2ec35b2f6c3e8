"""Choose the int8 ranges of activations on calibration images, with a balance of clipping and coarse steps.

TensorFlow's own calibrator takes the smallest and largest value of each tensor, so one unusual image makes every scale
coarser. It also reads results after their buffers were reused: the inner sum of x + (a + b) got the range of the outer
one. So the graph runs in onnxruntime here, and every tensor gets the range with the least ratio of noise to signal
amplitude, averaged over the images, so that every image has the same weight.

Measured on `mcu`, calibrated on the embedded frames, on 45 LOL pairs, by how much of a range may be clipped: int8
pictures against the float ones, mean and worst, and normally lit pictures against what they were (on 543 frames that
nothing was chosen on, 168 darkened photographs, the same normally lit and 207 of LOL, 14 % is best, too):

    7 %    41.2, 31.3, 31.9 dB        28 %   41.6, 32.4, 30.7 dB
    14 %   41.8, 32.3, 31.5 dB        50 %   42.0, 31.1, 30.6 dB
"""
from __future__ import annotations

import math
from typing import Any, Iterator, Sequence

import numpy as np
import onnx

from conversion.bridge.graph import is_within
from mirnet_torch.cli import progress

SAMPLES = 1 << 17  # most values of a tensor that are used to choose its range
CHUNK_BYTES = 1 << 30  # of tensors that are computed at a time
SHARES = np.geomspace(0.86, 1, 32)  # candidates: parts of the full range; smaller ones clip values of rare images

Range = tuple[float, float]


def activation_ranges(model: onnx.ModelProto, calibration: np.ndarray,
                      wanted: dict[str, bool] | None = None) -> dict[str, Range]:
    """Return the range of every tensor that the graph computes. That of its output is the full range, without clipping.

    Args:
        model: a graph with one input, with static shapes.
        calibration: inputs, float32 (N, rows, columns, channels).
        wanted: the tensors to return, and whether to return their full range; None: all.
    """
    results = [value.name for value in model.graph.output]
    if wanted is not None:
        results = [name for name, whole in wanted.items() if whole]
    ranges: dict[str, Range] = {}
    carried = [{model.graph.input[0].name: np.ascontiguousarray(image[None].transpose(0, 3, 1, 2))}
               for image in calibration]  # for every image, the tensors that later parts need
    parts = list(_parts(model))
    for number, part in enumerate(progress(parts, desc="calibration", unit="part")):
        session = _session(part)
        inputs, names = ([value.name for value in ports] for ports in (part.graph.input, part.graph.output))
        needed = {value.name for later in parts[number + 1:] for value in later.graph.input}
        low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
        seen: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for i, known in enumerate(carried):
            computed = dict(zip(names, session.run(names, {name: known[name] for name in inputs})))
            for name, values in computed.items():
                if wanted is not None and name not in wanted:
                    continue
                low[name], high[name] = min(low[name], values.min()), max(high[name], values.max())
                stride = max(1, len(calibration) * values.size // SAMPLES)
                seen[name].append(values.ravel()[::stride].copy())
            carried[i] = {name: values for name, values in (known | computed).items() if name in needed}
        ranges |= {name: (min(float(low[name]), 0.0), max(float(high[name]), 0.0)) if name in results
                   else best_range(np.stack(seen[name]), float(low[name]), float(high[name]))
                   for name in names if seen[name]}
    return ranges


def best_range(values: np.ndarray, low: float, high: float) -> Range:
    """Return the part of [low, high], with 0 in it, whose 256 codes represent `values` best.

    Args:
        values: samples of one tensor, float32 (images, values).
        low: the smallest value of the tensor.
        high: its largest value.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return low, high
    signal = np.sqrt(np.square(values).mean(1, dtype=np.float64)) + 1e-6 * (high - low)
    return min(((low * share, high * share) for share in SHARES),
               key=lambda bounds: float((_noise(values, *bounds) / signal).mean()))


def _noise(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the root mean squared error of every image's values when they are coded in 256 steps."""
    step = np.float32((high - low) / 255)
    zero = np.float32(round(-low / float(step)))
    codes = np.clip(np.rint(values / step) + zero, 0, 255)
    return np.sqrt(np.square((codes - zero) * step - values).mean(1, dtype=np.float64))


def _parts(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Cut a graph into models that each compute at most `CHUNK_BYTES` of tensors (or one node)."""
    sizes = {value.name: 4 * math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)
             for value in (*model.graph.value_info, *model.graph.output)}
    nodes: list[onnx.NodeProto] = []
    room = CHUNK_BYTES
    for node in model.graph.node:
        need = sum(sizes[name] for name in node.output)
        if need > room and nodes:
            yield _part(model, nodes)
            nodes, room = [], CHUNK_BYTES
        nodes.append(node)
        room -= need
    yield _part(model, nodes)


def _part(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    graph = model.graph
    values = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    outputs = [name for node in nodes for name in node.output]
    inputs = sorted(used & values.keys() - {tensor.name for tensor in weights} - set(outputs))
    part = onnx.helper.make_graph(nodes, graph.name, [values[name] for name in inputs],
                                  [values[name] for name in outputs], weights)
    return onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # it takes twice the memory that it needs
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def crossings(graph: onnx.GraphProto, quantised: Sequence[str]) -> dict[str, bool]:
    """Return the tensors that some modules compute or read, and whether they pass between these and the others."""
    weights = {tensor.name for tensor in graph.initializer}
    found: dict[str, bool] = {}
    for node in graph.node:
        inside = is_within(node.name, quantised)
        for name in (name for name in node.input if name and name not in weights):
            if inside or name in found:
                found[name] = found.get(name, False) or not (inside and is_within(name, quantised))
        if inside:
            found |= {name: found.get(name, False) for name in node.output}
    return found

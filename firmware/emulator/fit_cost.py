"""Fit what `conversion/bridge/cost.py` predicts instructions from to what the emulated Cortex-M4 counts.

Every row of the file of counts names an operator by its shapes. It is built as a model of its own and counted at
every level of optimisation; the rows under "fitted" then decide how many instructions a pass through each loop of a
kernel takes: least squares of relative errors, no coefficient below zero. The rows under "held out" are for the tests.
"""
from __future__ import annotations

import json
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterable

import numpy as np
from cortex_m4 import COMMIT, LEVELS, Counted, count
from single_operators import single_operator

from conversion.bridge import cost as cost_module
from conversion.bridge.graph import Graph, Operator, Tensor, read_graph
from mirnet_torch.cli import UserError, atomic_path

COEFFICIENTS = Path(cost_module.__file__).with_name("cortex_m4.json")
BIASED = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "TRANSPOSE_CONV": 3}  # inputs before the bias
ABOUT = [
    "Instructions that an emulated Cortex-M4 counted while it ran TensorFlow Lite Micro for Arduino on int8 noise.",
    "Rows: operator, strides, shapes of the inputs, shape of the output, how many such operators, instructions of all "
    "of them at each of the levels of optimisation.",
    "shipped: mirnet_torch/weights/mcu_int8.tflite, run as a whole. All others: operators of these shapes, run one at "
    "a time; the MIRNets are designs that were tried.",
    "make counts LIBRARY=... renews shipped, make counts LIBRARY=... FIT=1 all of it."]


def renew(programs: dict[str, Path], path: Path, *, progress: Callable[[str], None] = lambda text: None) -> None:
    """Count all rows of a file of counts anew, write it, and write the coefficients fitted to them.

    Args:
        programs: what `cortex_m4.build` returns, by level of optimisation.
        path: the file of counts.
        progress: is called with a line of text now and then.
    """
    content = json.loads(path.read_text())
    parts = ("fitted", "held out")
    keys = sorted({json.dumps(row[:4]) for part in parts for rows in content[part].values() for row in rows})

    def counted(key: str) -> list[int]:
        model = model_of(json.loads(key))
        inputs = noise(read_graph(model))
        return [count(program, model, inputs).total for program in programs.values()]

    found = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for key, counts in zip(keys, pool.map(counted, keys)):
            found[key] = counts
            if len(found) % 100 == 0:
                progress(f"{len(found)} of {len(keys)} operators counted")
    for part in parts:
        for name, rows in content[part].items():
            content[part][name] = [[*row[:5], *(row[4] * counts for counts in found[json.dumps(row[:4])])]
                                   for row in rows]
    content["about"] = ABOUT
    fitted = {json.dumps(row[:4]): found[json.dumps(row[:4])] for rows in content["fitted"].values() for row in rows}
    coefficients = {level: fit((json.loads(key), counts[i]) for key, counts in fitted.items())
                    for i, level in enumerate(programs)}
    write_counts(path, content)
    write_coefficients(COEFFICIENTS, coefficients)
    cost_module.coefficients.cache_clear()
    progress(f"written: {path}, {COEFFICIENTS}")


def noise(graph: Graph, highest: int = 127) -> bytes:
    """Return int8 noise for all inputs of a model, codes from -128 to `highest`.

    Raises:
        UserError: an input is not int8.
    """
    for tensor in graph.inputs:
        if tensor.dtype != "int8":
            raise UserError(f"the model's input {tensor} is not int8: convert it with int8 inputs")
    random = np.random.default_rng(0)
    return b"".join(random.integers(-128, highest + 1, tensor.shape, np.int8).tobytes() for tensor in graph.inputs)


def signature(operator: Operator) -> list[Any]:
    """Return all of an operator that decides how many instructions it takes: name, strides, shapes in, shape out."""
    inputs = operator.inputs[:BIASED.get(operator.name)]
    return [operator.name, list(operator.strides), [list(tensor.shape) for tensor in inputs if tensor is not None],
            list(operator.outputs[0].shape)]


def rows_of(graph: Graph, counted: dict[str, Counted]) -> list[list[Any]]:
    """Add up operators of the same signature: signature, how many there are, instructions at every level."""
    sums: dict[str, list[Any]] = {}
    for operator in graph.operators:
        row = sums.setdefault(json.dumps(signature(operator)), [*signature(operator), 0, *([0] * len(counted))])
        row[4] += 1
        for i, run in enumerate(counted.values(), 5):
            name, value = run.operators[operator.index]
            assert name == operator.name
            row[i] += value
    return [sums[key] for key in sorted(sums)]


def operator_of(signature: list[Any]) -> Operator:
    """Return the operator that a row of the file of counts describes."""
    name, strides, inputs, output = signature
    tensors = [Tensor(i, "", tuple(shape), "int8", (), (), False, 0) for i, shape in enumerate((*inputs, output))]
    return Operator(0, name, 1, tuple(tensors[:-1]), (tensors[-1],), "", tuple(strides))


def model_of(signature: list[Any]) -> bytes:
    """Return a `.tflite` with the one operator that a row describes."""
    name = signature[0]
    window = cost_module.pooling_window(operator_of(signature)) if name.endswith("POOL_2D") else ()
    return single_operator(*signature, window=window)


def fit(counted: Iterable[tuple[list[Any], int]]) -> dict[str, list[float]]:
    """Return the instructions of one pass through each loop of every kernel that was counted.

    Args:
        counted: signatures of operators and the instructions of one of each.
    """
    from scipy.optimize import nnls

    kernels: dict[str, list[list[float]]] = defaultdict(list)
    for signature, instructions in counted:
        kernel, passes = cost_module.passes(operator_of(signature))
        kernels[kernel].append([passed / instructions for passed in passes])
    coefficients = {}
    for kernel, lines in sorted(kernels.items()):
        matrix = np.array(lines)
        scale = np.abs(matrix).max(axis=0)
        scale[scale == 0] = 1
        values, _ = nnls(matrix / scale, np.ones(len(matrix)), maxiter=1000)
        coefficients[kernel] = [float(f"{value:.4g}") for value in values / scale]
    return coefficients


def write_counts(path: Path, content: dict[str, Any]) -> None:
    """Write the file of counts, a line for every row."""
    lines = ["{", f' "about": {json.dumps(content["about"])},', f' "levels": {json.dumps(list(LEVELS))},']
    parts = ("shipped", "fitted", "held out")
    for part in parts:
        lines.append(f' "{part}": {{')
        for name, group in content[part].items():
            body = ",\n".join("   " + json.dumps(row, separators=(",", ":")) for row in group)
            lines += [f"  {json.dumps(name)}: [", body, "  ]" + ("," if name != list(content[part])[-1] else "")]
        lines.append(" }" + ("," if part != parts[-1] else ""))
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([*lines, "}"]) + "\n")


def write_coefficients(path: Path, coefficients: dict[str, dict[str, list[float]]]) -> None:
    """Write the coefficients, a line for every kernel."""
    about = ("Instructions of one pass through each loop of a kernel on a Cortex-M4, first those of a call; fitted by "
             f"firmware/emulator/fit_cost.py to counts of the Arduino library at {COMMIT[:10]}")
    lines = ["{", f' "about": {json.dumps(about)},']
    for level, kernels in coefficients.items():
        lines += [f' "{level}": {{', ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}"
                                                for name, values in kernels.items()),
                  " }" + ("," if level != list(coefficients)[-1] else "")]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([*lines, "}"]) + "\n")

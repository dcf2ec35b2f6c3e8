"""The chain from a PyTorch module to C arrays, and the comparison of every stage with the one before.

    artefacts = convert(network, input_shape, calibration, folder, target="arduino-tflm")
    rows = compare_stages(stages(network, input_shape, artefacts), inputs)

`TOLERANCES` is the only table of how far a stage may be from the one before. The conversion's report and the parity
suite use it.
"""
from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
from torch import nn

from conversion.bridge import c_array
from conversion.bridge.c_array import Extra
from conversion.bridge.cost import Cost, cost
from conversion.bridge.difference import Difference, compare
from conversion.bridge.graph import Graph
from conversion.bridge.onnx_export import export_onnx
from conversion.bridge.runtimes import Stage, TorchStage, open_stage, output_shape, quantised
from conversion.bridge.target import check, find_target
from conversion.bridge.tflite import checked_calibration, to_tflite
from conversion.bridge.tflite_file import ConversionError
from mirnet_torch.cli import UserError, make_folder


@dataclass(frozen=True)
class Artefacts:
    """The files that the bridge wrote into one folder, and the graph and cost of the int8 model."""

    onnx: Path
    float32: Path
    float16: Path
    int8: Path
    c_files: tuple[Path, ...]  # model_data.h/.cpp, golden_vectors.h/.cpp; none for targets that need none
    graph: Graph  # of the int8 model
    cost: Cost


def convert(network: nn.Module, input_shape: tuple[int, int, int], calibration: np.ndarray,
            folder: str | os.PathLike[str], *, target: str = "litert", name: str = "model",
            quantised: Sequence[str] = (), metadata: dict[str, str] | None = None, golden: np.ndarray | None = None,
            extra: Callable[[Graph], Extra] = lambda graph: Extra(), arena_limit: int | None = None,
            flash_limit: int | None = None, on_step: Callable[[str], None] = lambda step: None) -> Artefacts:
    """Convert a module to ONNX, TFLite and, where the target asks for them, C arrays.

    Args:
        network: takes one tensor (1, channels, rows, columns) in [0, 1] and returns one 4-D tensor of any range.
        input_shape: (rows, columns, channels).
        calibration: inputs like those the model will be used on, float32 (N, rows, columns, channels) in [0, 1], N at
            least 2; or what NumPy makes this of, a tensor or a list.
        folder: for the files; created if needed.
        target: a name of `target.TARGETS`: the runtime whose contract the int8 model must keep.
        name: of the files, without suffix.
        quantised: names of the modules that the int8 model computes in integers; none: all, input and output too.
        metadata: properties of the ONNX file.
        golden: the input (1, rows, columns, channels) of the golden vectors; None: the first of `calibration`.
        extra: called with the graph of the int8 model; returns more C++ for model_data.
        arena_limit: largest arena in bytes; None: no limit.
        flash_limit: largest int8 model in bytes; None: no limit.
        on_step: called with the name of each of `STEPS` when it starts.

    Raises:
        UserError: the bridge cannot take the network or the calibration data, the converter fails, or the model breaks
            the contract of the target or a limit.
    """
    folder, chosen = Path(folder), find_target(target)
    check_network(network, input_shape)
    calibration = checked_calibration(calibration, input_shape)
    make_folder(folder)
    on_step("ONNX")
    output_shape(network, input_shape)  # its message is clearer than the exporter's
    onnx = folder / f"{name}.onnx"
    export_onnx(network, onnx, input_shape=input_shape, metadata=metadata or {})
    on_step("TFLite")
    try:
        files = to_tflite(onnx, folder, calibration=calibration, quantised=quantised)
    except ConversionError as error:
        raise UserError(str(error)) from error
    on_step("contract")
    graph = check(files.int8, chosen, quantised=quantised)
    costs = cost(graph)
    check_fit(costs, arena_limit=arena_limit, flash_limit=flash_limit)
    on_step("C arrays")
    c_files: tuple[Path, ...] = ()
    if chosen.c_arrays:
        codes, answer = golden_vectors(files.int8, graph, calibration[:1] if golden is None else golden)
        c_files = (*c_array.write_model_data(files.int8, folder, graph=graph, cost=costs, extra=extra(graph)),
                   *c_array.write_golden_vectors(folder, graph=graph, golden_input=codes, golden_output=answer))
    return Artefacts(onnx, files.float32, files.float16, files.int8, c_files, graph, costs)


def check_network(network: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Raise a UserError unless a network is a module with finite weights and its input has three sides."""
    if not isinstance(network, nn.Module):
        raise UserError(f"the network must be a torch.nn.Module, not a {type(network).__name__}: put it into the "
                        "forward of one")
    if len(input_shape) != 3 or not all(isinstance(side, int) and side > 0 for side in input_shape):
        raise UserError(f"input_shape must be (rows, columns, channels), three whole numbers, not {input_shape}")
    for name, row in network.state_dict().items():
        if row.is_floating_point() and not row.isfinite().all():
            raise UserError(f"the weights {name} hold values that are not finite (NaN or infinity): train the network "
                            "anew, or load other weights")


STEPS = ("ONNX", "TFLite", "contract", "C arrays")


def check_fit(costs: Cost, *, arena_limit: int | None, flash_limit: int | None) -> None:
    """Raise a UserError that names the largest tensors unless the model is within the limits."""
    if flash_limit is not None and costs.flash_bytes > flash_limit:
        largest = sorted(costs.operators, key=lambda item: -item.weight_bytes)[:3]
        raise UserError(f"the int8 model has {costs.flash_bytes:,} bytes, the flash limit is {flash_limit:,}; the "
                        "largest weights: " + ", ".join(f"{item.operator.weights[0]} ({item.weight_bytes:,} bytes)"
                                                        for item in largest)
                        + "; train a smaller network or raise --flash-limit")
    if arena_limit is not None and costs.arena_bytes > arena_limit:
        raise UserError(f"the arena needs {costs.arena_bytes:,} bytes ({costs.head_bytes:,} for tensors, of which "
                        f"{costs.floor_bytes:,} in any plan), the limit is {arena_limit:,}; the largest tensors "
                        f"at operator {costs.floor_operator}: "
                        + ", ".join(f"{buffer.name} ({buffer.nbytes:,} bytes)" for buffer in costs.largest())
                        + "; take a smaller --size or network, or raise --arena-limit")


def golden_vectors(int8: Path, graph: Graph, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the int8 codes of an input and of tflite-micro's output for it."""
    (image,) = graph.inputs
    codes = quantised(picture, image)
    exact = ((codes.astype(np.float32) - image.zero_point) * np.float32(image.scale)).astype(np.float32)
    return codes, open_stage(int8, runtime="tflite-micro").run_raw(exact)


@dataclass(frozen=True)
class Tolerance:
    """How far a stage may be from the one before.

    `measure` says what `limit` limits: "max", the largest difference; "mean steps", the mean difference in
    quantisation steps of the output, or of a picture of 8 bits; "bytes", the number of bytes that differ; "SQNR", in
    dB, where the limit is the least value.
    """

    measure: str
    limit: float

    def holds(self, difference: Difference, step: float) -> bool:
        """Return whether a difference is within the tolerance; `step` is the output's quantisation step."""
        if self.measure == "SQNR":
            return difference.sqnr_db >= self.limit
        return {"max": difference.max, "mean steps": difference.mean / (step or LEVEL),
                "bytes": float(difference.differing)}[self.measure] <= self.limit

    @property
    def exact(self) -> bool:
        """Whether the stage must not change the result; then a missed tolerance is an error, not a quality figure."""
        return self.measure in ("max", "bytes")

    def __str__(self) -> str:
        return {"max": f"max <= {self.limit:g}", "mean steps": f"mean <= {self.limit:g} step{'s' * (self.limit != 1)}",
                "bytes": f"{self.limit:.0f} differing bytes", "SQNR": f"SQNR >= {self.limit:g} dB"}[self.measure]


LEVEL = 1 / 255  # step of a picture of 8 bits

TOLERANCES = {
    "deployable form": Tolerance("max", 2e-5),
    "ONNX": Tolerance("max", 1e-5),
    "ONNX, any size": Tolerance("max", 3e-5),  # from PyTorch, as far as the two stages before it together
    "TFLite float32": Tolerance("max", 1e-4),
    "TFLite float16": Tolerance("SQNR", 40),
    "TFLite int8": Tolerance("mean steps", 2),
    "TFLite int8, partly": Tolerance("mean steps", 2),  # float pictures: steps of 8 bits
    # Only for the board: its contract excludes the operators that may round differently.
    "int8, tflite-micro": Tolerance("bytes", 0),
    "C array, tflite-micro": Tolerance("bytes", 0),
}


@dataclass(frozen=True)
class Link:
    """A stage of the chain, which is opened only when it runs, and the number of the stage it was made from."""

    name: str
    before: int | None
    open: Callable[[], Stage]
    tolerance: Tolerance | None = None
    skipped: str = ""  # why it is not run


@dataclass(frozen=True)
class Row:
    """The outputs of one stage compared with those of the stage it was made from (`change`) and of the first (`total`).

    A stage that was not run has neither, and `skipped` says why. `step` is the quantisation step of an integer stage's
    output.
    """

    stage: str
    before: str = ""
    change: Difference | None = None
    total: Difference | None = None
    psnr: float | None = None  # of the pictures against ground truth, dB, mean over the pictures; set by `pipeline`
    tolerance: Tolerance | None = None
    step: float = 0.0
    in_steps: bool = False  # `change` is between two integer stages, in output steps
    skipped: str = ""
    output: np.ndarray | None = field(default=None, repr=False)  # float32 (N, rows, columns, channels)
    pictures: np.ndarray | None = field(default=None, repr=False)  # float32 (N, H, W, C); set by `pipeline`

    @property
    def passed(self) -> bool | None:
        """Whether the stage is within its tolerance; None if it has none or was not run."""
        if self.tolerance is None or self.change is None:
            return None
        return self.tolerance.holds(self.change, self.step)


def stages(network: nn.Module, input_shape: tuple[int, int, int], artefacts: Artefacts, *,
           original: tuple[nn.Module, str] | None = None, slow: str = "", partly: bool = False) -> list[Link]:
    """List the stages of a conversion.

    Args:
        network: the converted module.
        input_shape: (rows, columns, channels).
        artefacts: the result of `convert` for it.
        original: the module that `network` was rewritten from, and the name of its method that computes the same.
        slow: why the reference kernels, which are a hundred times slower, are not run; "": they are run.
        partly: the int8 model is integer in parts; microcontrollers and their kernels do not run it.
    """
    files, links = artefacts, []

    def add(name: str, before: int | None, opened: Callable[[], Stage], *, tolerance: bool = True,
            skipped: str = "") -> int:
        links.append(Link(name, before, opened, TOLERANCES.get(name) if tolerance else None, skipped))
        return len(links) - 1

    start = None
    if original is not None:
        start = add("PyTorch", None, lambda: TorchStage(original[0], input_shape, name="PyTorch", method=original[1]))
    name = "PyTorch" if start is None else "deployable form"
    start = add(name, start, lambda: TorchStage(network, input_shape, name=name))
    start = add("ONNX", start, lambda: open_stage(files.onnx))
    float32 = add("TFLite float32", start, lambda: open_stage(files.float32))
    add("TFLite float16", float32, lambda: open_stage(files.float16))
    int8 = add("TFLite int8, partly" if partly else "TFLite int8", float32, lambda: open_stage(files.int8))
    if partly:
        return links
    reference = add("int8, reference kernels", int8, lambda: open_stage(files.int8, runtime="litert-reference"),
                    skipped=slow)
    micro = add("int8, tflite-micro", reference, lambda: open_stage(files.int8, runtime="tflite-micro"),
                tolerance=bool(files.c_files), skipped=slow)
    if files.c_files:
        add("C array, tflite-micro", micro, lambda: open_stage(c_array.read_c_array(files.c_files[1]),
                                                               runtime="tflite-micro"), skipped=slow)
    return links


def compare_stages(links: Sequence[Link], inputs: np.ndarray) -> list[Row]:
    """Run every stage on all inputs and compare its outputs with those of the stage it was made from and of the first.

    Args:
        links: the result of `stages`.
        inputs: float32 (N, rows, columns, channels).
    """
    rows: list[Row] = []
    raw: dict[int, np.ndarray] = {}  # outputs of every stage that ran, as the runtime returns them
    for number, link in enumerate(links):
        before, skipped = link.before, link.skipped
        if before is not None and before not in raw and not skipped:
            before = links[before].before  # the stage in between was not run
        try:
            stage = None if skipped else link.open()
        except UserError as error:
            stage, skipped = None, str(error)
        if stage is None:
            rows.append(Row(link.name, skipped=skipped))
            continue
        raw[number] = stage.run_raw(inputs)
        output = stage.real(raw[number])
        change, in_steps = None, False
        if before is not None:
            in_steps = raw[number].dtype == raw[before].dtype == np.int8
            change = compare(raw[before], raw[number]) if in_steps else compare(_output(rows[before]), output)
        rows.append(Row(link.name, "" if before is None else links[before].name, change,
                        None if number == 0 else compare(_output(rows[0]), output), None,
                        link.tolerance if before == link.before else None, stage.scale if stage.integer else 0.0,
                        in_steps, output=output))
    return rows


def _output(row: Row) -> np.ndarray:
    assert row.output is not None
    return row.output

"""The whole bridge as one call: a checkpoint in, a folder of proven artefacts out.

    load_model -> equalised -> deployable form -> ONNX -> TFLite (float32, float16, int8) -> contract -> C arrays
    -> parity -> report

Every stage is run on the same pictures and compared with the one before. The folder appears whole at the end or not at
all, and its bytes depend on the arguments (and the versions of the libraries) only.
"""
from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import torch

import mirnet_torch
from conversion import c_array, report
from conversion.cost import Cost, cost
from conversion.deploy import DeployableMIRNet, deployable
from conversion.equalise import equalised
from conversion.frames import Frames, calibration_frames, paired_frames, require_disjoint
from conversion.graph import Graph
from conversion.onnx_export import export_onnx
from conversion.parity import (LayerDifference, Stage, compare, core_to_pictures, images_to_core, layerwise, nchw,
                               open_stage)
from conversion.report import Bar, Row
from conversion.target import check, find_target
from conversion.tflite import ConversionError, TFLiteFiles, to_tflite
from mirnet_torch.checkpoint import WEIGHTS, load_model, save_model
from mirnet_torch.cli import UserError, progress
from mirnet_torch.metrics import mean_score, psnr
from mirnet_torch.model import PRESETS, MIRNet, MIRNetConfig, parameter_count

CAMERA_SIZE, LARGE_SIZE = (160, 120), (256, 256)  # width, height; what the two presets were made for
MOST_EQUALISED, MOST_CALIBRATION, MOST_JUDGED, SHOWN = 32, 100, 64, 3  # frames
# Multiply-accumulates that a run may spend on each; see _affordable.
EQUALISED_MACS, CALIBRATION_MACS, JUDGED_MACS, REFERENCE_MACS = 1e12, 4e12, 2e12, 4e10
LAYER_BYTES, MOST_LAYER_BYTES = 16, 8e9  # memory to compare one element of all tensors; what that may take
LIBRARIES = ("torch", "onnx", "onnx2tf", "tensorflow", "onnxruntime", "ai-edge-litert", "tflite-micro", "numpy")
STEPS = ("deployable form", "ONNX", "TFLite", "contract", "C arrays", "parity", "layers", "report")


@dataclass(frozen=True)
class Conversion:
    """What one conversion wrote and found."""

    folder: Path
    equalised: Path
    onnx: Path
    float32: Path
    float16: Path
    int8: Path
    c_files: tuple[Path, ...]  # model_data.h/.cpp, golden_vectors.h/.cpp; none for targets that need none
    report_json: Path
    report_html: Path
    target: str
    operators: dict[str, int]  # of the int8 model
    parity: tuple[Row, ...]
    layers: tuple[LayerDifference, ...]
    cost: Cost
    sentences: tuple[str, ...]  # the report's summary

    @property
    def missed(self) -> list[Row]:
        """The stages that did not keep to their bar."""
        return [row for row in self.parity if row.passed is False]


def convert(checkpoint: str | os.PathLike[str], out: str | os.PathLike[str], *,
            calibration: str | os.PathLike[str] | None = None, pairs: str | os.PathLike[str] | None = None,
            size: tuple[int, int] | None = None, target: str | None = None, arena_limit: int | None = None,
            flash_limit: int | None = None, replace: bool = False) -> Conversion:
    """Convert a checkpoint, compare every stage with the one before, and write all of it into a new folder.

    Args:
        checkpoint: what `load_model` takes: a file or the name of a preset whose weights ship.
        out: the folder to make.
        calibration: a folder of dark images (at least two) that int8 ranges are taken from; None: embedded ones.
        pairs: a folder with `low` and `high` to be judged by, none of it in `calibration`; None: embedded ones.
        size: (width, height) of the pictures; None: 160x120 for networks made for a camera frame, else 256x256.
        target: a name of `TARGETS`; None: the board for networks made for it, else LiteRT.
        arena_limit: bytes of arena that the board can give; None: the target's own limit.
        flash_limit: bytes that the model may take; None: the target's own limit.
        replace: replace an `out` that an earlier conversion made.

    Raises:
        UserError: an argument cannot be used, the model breaks the contract of the target or does not fit.
    """
    out = Path(os.path.abspath(out))
    _check_out(out, replace=replace)
    model = load_model(checkpoint)
    config = model.config
    chosen = find_target(target, config)
    width, height = size or (CAMERA_SIZE if config.head == "affine" else LARGE_SIZE)
    _check_size(width, height, config)
    if config.in_channels not in (1, 3):
        raise UserError(f"only networks for grey or RGB pictures can be converted, not {config.in_channels} channels")
    calibrated_on = calibration_frames(calibration, size=(width, height), channels=config.in_channels)
    judged_by = paired_frames(pairs, size=(width, height), channels=config.in_channels)
    require_disjoint(calibrated_on, judged_by)
    limits = {"arena": chosen.arena_limit if arena_limit is None else arena_limit,
              "flash": chosen.flash_limit if flash_limit is None else flash_limit}

    with _folder_for(out, replace=replace) as folder, progress(total=len(STEPS), unit="step") as bar:
        def begin(step: str) -> None:
            bar.set_description(step)
            bar.update(STEPS.index(step) - bar.n)

        begin("deployable form")
        work = _macs(model, height, width)
        calibrated_on = calibrated_on.pick(_affordable(MOST_CALIBRATION, CALIBRATION_MACS, work, at_least=8))
        stem = Path(checkpoint).stem
        looked_at = calibrated_on.pick(_affordable(MOST_EQUALISED, EQUALISED_MACS, work, at_least=2))
        even = equalised(model, nchw(_to_float(looked_at.dark)))
        equalised_path = folder / f"{stem}_equalised.safetensors"
        save_model(even, equalised_path)
        deployed = deployable(even, height=height, width=width)
        digest = hashlib.sha256(_weights_file(checkpoint).read_bytes()).hexdigest()

        begin("ONNX")
        onnx = folder / f"{stem}.onnx"
        export_onnx(deployed, onnx, metadata=_metadata(config, digest))

        begin("TFLite")
        try:
            files = to_tflite(onnx, folder, calibration=images_to_core(deployed, _to_float(calibrated_on.dark)))
        except ConversionError as error:
            raise UserError(str(error)) from error

        begin("contract")
        graph = check(files.int8, chosen)
        weighed = cost(graph)
        _check_fit(weighed, limits)

        begin("C arrays")
        judged_by = judged_by.pick(_affordable(MOST_JUDGED, JUDGED_MACS, work, at_least=2))
        c_files: tuple[Path, ...] = ()
        if chosen.c_arrays:
            c_files = _write_c_arrays(files.int8, folder, graph, weighed, deployed)

        begin("parity")
        chain = _chain(model, deployed, onnx, files, c_files, work * len(judged_by.names), (height, width))
        shown = judged_by.pick(SHOWN)
        rows = _measure(chain, deployed, judged_by, shown=[judged_by.names.index(name) for name in shown.names])

        begin("layers")
        layers, layers_note = _compare_layers(files, graph, work, images_to_core(deployed, _to_float(shown.dark[:1])))

        begin("report")
        subject = report.Subject(
            checkpoint=Path(checkpoint).name, checkpoint_sha256=digest, config=config.to_dict(),
            parameters=parameter_count(model), image=(width, height), target=chosen.name,
            target_summary=chosen.summary, calibration=_say(calibrated_on), judged_by=_say(judged_by),
            versions={name: version(name) for name in LIBRARIES}, limits=limits)
        listed = {path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
                  for path in sorted(folder.iterdir())}
        told: dict[str, Any] = {"subject": subject, "rows": rows, "layers": layers, "layers_note": layers_note,
                                "graph": graph, "cost": weighed, "files": listed}
        report.write_json(folder / "report.json", **told)
        report.write_html(folder / "report.html", names=shown.names, dark=shown.dark, bright=shown.bright, **told)
        bar.update()
    return Conversion(
        folder=out, equalised=out / equalised_path.name, onnx=out / onnx.name,
        float32=out / files.float32.name, float16=out / files.float16.name,
        int8=out / files.int8.name, c_files=tuple(out / path.name for path in c_files),
        report_json=out / "report.json", report_html=out / "report.html", target=chosen.name,
        operators=graph.counts(), parity=tuple(rows), layers=tuple(layers), cost=weighed,
        sentences=tuple(report.summary(rows, layers, weighed)))


def _check_out(out: Path, *, replace: bool) -> None:
    if out.is_dir() and any(out.iterdir()):
        if not replace:
            raise UserError(f"{out} exists already: give another --out, or --force to replace what a conversion made")
        if not (out / "report.json").is_file():
            raise UserError(f"{out} was not made by a conversion (no report.json in it): it is not replaced")
    elif out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder that does not exist yet")


def _check_size(width: int, height: int, config: MIRNetConfig) -> None:
    multiple = config.multiple
    if width < multiple or height < multiple or width % multiple or height % multiple:
        nearest = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in (width, height))
        raise UserError(f"the size {width}x{height} does not suit this network: both sides must be positive multiples "
                        f"of {multiple}, the nearest is {nearest}")


def _check_fit(weighed: Cost, limits: dict[str, int | None]) -> None:
    arena, flash = limits["arena"], limits["flash"]
    if flash is not None and weighed.flash_bytes > flash:
        largest = sorted(weighed.operators, key=lambda item: -item.weight_bytes)[:3]
        raise UserError(f"the int8 model has {weighed.flash_bytes:,} bytes, the flash limit is {flash:,}; the largest "
                        "weights: " + ", ".join(f"{item.operator.weights[0]} ({item.weight_bytes:,} bytes)"
                                                for item in largest)
                        + "; train a smaller network or raise --flash-limit")
    if arena is not None and weighed.arena_bytes > arena:
        raise UserError(f"the arena needs {weighed.arena_bytes:,} bytes ({weighed.head_bytes:,} for tensors, of which "
                        f"{weighed.floor_bytes:,} whatever the plan), the limit is {arena:,}; the largest tensors at "
                        f"operator {weighed.floor_operator}: "
                        + ", ".join(f"{buffer.name} ({buffer.nbytes:,} bytes)" for buffer in weighed.largest())
                        + "; take a smaller --size or network, or raise --arena-limit")


@contextlib.contextmanager
def _folder_for(out: Path, *, replace: bool) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` at the end; after an exception `out` is as it was."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        workshop = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))  # same disk: a rename suffices
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; give another --out") from error
    made, aside = workshop / out.name, workshop / "replaced"
    lock = os.open(workshop, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        made.mkdir()
        yield made
        if replace and out.exists():
            os.rename(out, aside)
        os.rename(made, out)
    finally:
        if aside.exists() and not out.exists():
            os.rename(aside, out)
        shutil.rmtree(workshop, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(out: Path) -> None:
    """Remove what earlier runs for `out` left when they were killed; a run that lives holds a lock on its folder."""
    for workshop in out.parent.glob(f".{glob.escape(out.name)}-????????"):
        with contextlib.suppress(OSError):  # also no folder, or locked
            lock = os.open(workshop, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.listdir(workshop) == [out.name]:  # an earlier OUT that waits in there is not thrown away
                    shutil.rmtree(workshop)
            finally:
                os.close(lock)


def _weights_file(checkpoint: str | os.PathLike[str]) -> Path:
    return WEIGHTS / f"{checkpoint}.safetensors" if checkpoint in PRESETS else Path(checkpoint)


def _metadata(config: MIRNetConfig, digest: str) -> dict[str, str]:
    return {"mirnet_torch": mirnet_torch.__version__, "checkpoint_sha256": digest,
            "config": json.dumps(config.to_dict(), sort_keys=True)}


def _macs(model: MIRNet, height: int, width: int) -> float:
    """Count the network's multiply-accumulates for one picture, without computing it."""
    import copy

    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta").maps(torch.empty(1, model.config.in_channels, height, width, device="meta"))
    return counter.get_total_flops() / 2


def _affordable(most: int, budget: float, work: float, *, at_least: int) -> int:
    """How many frames a step may take: as many as the budget of multiply-accumulates allows."""
    return max(at_least, min(most, int(budget / work)))


def _to_float(frames: np.ndarray) -> np.ndarray:
    return frames.astype(np.float32) / np.float32(255)


def _say(frames: Frames) -> str:
    return f"{len(frames.names)} frames ({frames.source})"


def _write_c_arrays(int8: Path, folder: Path, graph: Graph, weighed: Cost,
                    deployed: DeployableMIRNet) -> tuple[Path, ...]:
    """Write the C++ files; the golden vectors are always of an embedded photograph, so that they can be given away."""
    config, (image,) = deployed.config, graph.inputs
    frame = paired_frames(None, size=(deployed.width, deployed.height), channels=config.in_channels).dark[:1]
    core = images_to_core(deployed, _to_float(frame))
    codes = np.clip(np.round(core / np.float32(image.scale)) + image.zero_point, -128, 127).astype(np.int8)
    exact = ((codes.astype(np.float32) - image.zero_point) * np.float32(image.scale)).astype(np.float32)
    answer = open_stage(int8, runtime="tflite-micro").run_raw(exact)
    return (*c_array.write_model_data(int8, folder, graph=graph, cost=weighed, config=config),
            *c_array.write_golden_vectors(folder, graph=graph, golden_input=codes, golden_output=answer))


@dataclass(frozen=True)
class _Link:
    """A stage of the chain, opened only when its turn comes, and the number of the stage it was made from."""

    name: str
    before: int | None
    open: Callable[[], Stage]
    bar: Bar | None = None
    skipped: str = ""


def _chain(model: MIRNet, deployed: DeployableMIRNet, onnx: Path, files: TFLiteFiles, c_files: tuple[Path, ...],
           work: float, size: tuple[int, int]) -> list[_Link]:
    """List the stages. `work` is that of all pictures: reference kernels are a hundred times slower than others."""
    slow = (f"{work / 1e9:,.0f} G multiply-accumulates are too many for reference kernels; compare.py runs them"
            if work > REFERENCE_MACS else "")
    links = [
        _Link("PyTorch", None, lambda: open_stage(model, size=size)),
        _Link("deployable form", 0, lambda: open_stage(deployed), Bar("max", 2e-5)),
        _Link("ONNX", 1, lambda: open_stage(onnx), Bar("max", 1e-5)),
        _Link("TFLite float32", 2, lambda: open_stage(files.float32), Bar("max", 1e-4)),
        _Link("TFLite float16", 3, lambda: open_stage(files.float16)),
        _Link("TFLite int8", 3, lambda: open_stage(files.int8), Bar("mean steps", 1.0)),
        _Link("int8, reference kernels", 5, lambda: open_stage(files.int8, runtime="litert-reference"), None, slow),
        # Only the contract of the board leaves out the operators that may round differently.
        _Link("int8, tflite-micro", 6, lambda: open_stage(files.int8, runtime="tflite-micro"),
              Bar("bytes", 0) if c_files else None, slow),
    ]
    if c_files:
        links.append(_Link("C array, tflite-micro", 7, lambda: open_stage(
            c_array.read_c_array(c_files[1]), runtime="tflite-micro"), Bar("bytes", 0), slow))
    return links


def _measure(chain: list[_Link], deployed: DeployableMIRNet, frames: Frames, *, shown: list[int]) -> list[Row]:
    """Run every stage on all frames and compare its outputs with those of the stage it was made from and of PyTorch."""
    images, rows = _to_float(frames.dark), []
    core = images_to_core(deployed, images)
    outputs: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of every stage that ran: as it is, and as real numbers
    for number, link in enumerate(chain):
        before = link.before
        if before is not None and before not in outputs and not link.skipped:
            before = chain[before].before  # the stage in between could not be run
        skipped = link.skipped
        try:
            stage = None if skipped else link.open()
        except UserError as error:
            stage, skipped = None, str(error)
        if stage is None:
            rows.append(Row(link.name, skipped=skipped))
            continue
        raw = stage.run_raw(core)
        real = stage.real(raw)
        outputs[number] = raw, real
        change, both_integer = None, False
        if before is not None:
            both_integer = raw.dtype == outputs[before][0].dtype == np.int8
            change = compare(outputs[before][0], raw) if both_integer else compare(outputs[before][1], real)
        pictures = core_to_pictures(deployed, images, real)
        score = None
        if frames.bright is not None:
            score = mean_score(psnr(_rgb(report.to_levels(picture)), _rgb(truth))
                               for picture, truth in zip(pictures, frames.bright))
        rows.append(Row(link.name, "" if before is None else chain[before].name, change,
                        None if number == 0 else compare(outputs[0][1], real), score,
                        link.bar if before == link.before else None, stage.scale if stage.integer else 0.0,
                        in_steps=both_integer, pictures=pictures[shown]))
    return rows


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.broadcast_to(picture, (*picture.shape[:2], 3))


def _compare_layers(files: TFLiteFiles, graph: Graph, work: float,
                    core: np.ndarray) -> tuple[list[LayerDifference], str]:
    """Compare all tensors of the float and the int8 model on one picture, in the board's arithmetic if possible.

    Returns:
        The layers, and why there are none.
    """
    need = LAYER_BYTES * sum(tensor.nbytes for operator in graph.operators for tensor in operator.outputs)
    if need > MOST_LAYER_BYTES:
        return [], f"all tensors at once would take {need / 1e9:.0f} GB; convert at a smaller --size to see them"
    try:
        int8 = open_stage(files.int8, runtime="litert-reference" if work <= REFERENCE_MACS else "litert")
    except UserError:  # the reference kernels lack an operator; the table says which
        int8 = open_stage(files.int8)
    return layerwise(open_stage(files.float32), int8, core), ""

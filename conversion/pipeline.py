"""The whole conversion as one call: from a checkpoint to a folder of tested artefacts.

    load_model -> prepare (equalised, deployable form) -> bridge (ONNX, TFLite, contract, C arrays) -> parity -> report
    -> into the sketch, if one is given

Every stage is run on the same pictures and compared with the one before. The folder is written whole or not at all,
and its bytes depend only on the arguments and the versions of the libraries.
"""
from __future__ import annotations

import contextlib
import dataclasses
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
from typing import Any, Iterator

import numpy as np
import torch

import mirnet_torch
from conversion import report
from conversion.bridge import chain
from conversion.bridge.chain import Artefacts, Row, compare_stages, stages
from conversion.bridge.cost import Cost
from conversion.bridge.difference import LayerDifference, compare, layerwise
from conversion.bridge.runtimes import OnnxStage, open_stage
from conversion.bridge.target import find_target
from conversion.frames import Frames, calibration_frames, paired_frames, require_disjoint, without_light
from conversion.mirnet import sketch as contract
from conversion.mirnet.any_size import export_any_size
from conversion.mirnet.prepare import Prepared, check_size, default_size, nchw, nhwc, prepare
from mirnet_torch.checkpoint import load_model, save_model, weights_file
from mirnet_torch.cli import FULL, Size, UserError, progress
from mirnet_torch.compact import CompactConfig
from mirnet_torch.measures.metrics import mean_score, psnr
from mirnet_torch.model import parameter_count
from mirnet_torch.photo import PhotoConfig, PhotoMIRNet
from mirnet_torch.presets import Network

MOST_EQUALISED, MOST_CALIBRATION, MOST_TESTED, SHOWN = 32, 100, 64, 3  # frames
# Most multiply-accumulates of each step; see `_affordable`.
EQUALISED_MACS, CALIBRATION_MACS, TEST_MACS, REFERENCE_MACS = 1e12, 4e12, 2e12, 4e10
LAYER_BYTES, MOST_LAYER_BYTES = 16, 8e9  # memory to compare layers, per byte of int8 tensors, and its limit
LIBRARIES = ("torch", "onnx", "onnx2tf", "tensorflow", "onnxruntime", "ai-edge-litert", "tflite-micro", "numpy")
SIZES = ((1.0, 1.0), (0.5, 0.63), (0.27, 1.0), (1.0, 0.113), (0.071, 0.083))  # shares of a frame's rows and columns
STEPS = ("deployable form", *chain.STEPS, "parity", "layers", "report")


@dataclass(frozen=True)
class Conversion:
    """The files and the results of one conversion."""

    folder: Path
    equalised: Path
    onnx: Path
    any_size: Path | None  # ONNX for pictures of any size; only of `photo`
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
    verdict: str  # one sentence: may the model be used?
    sentences: tuple[str, ...]  # the report's summary

    @property
    def missed(self) -> list[Row]:
        """The stages that are not within their tolerance."""
        return [row for row in self.parity if row.passed is False]

    @property
    def broken(self) -> list[Row]:
        """The missed stages that had to be equal; a model with any must not be used."""
        return [row for row in self.missed if row.tolerance is not None and row.tolerance.exact]


def convert(checkpoint: str | os.PathLike[str], out: str | os.PathLike[str], *,
            calibration: str | os.PathLike[str] | None = None, pairs: str | os.PathLike[str] | None = None,
            size: Size | None = None, target: str | None = None, sketch: str | os.PathLike[str] | None = None,
            arena_limit: int | None = None, flash_limit: int | None = None, replace: bool = False) -> Conversion:
    """Convert a checkpoint, compare every stage with the one before, and write all of it into a new folder.

    Args:
        checkpoint: a file or the name of a preset whose weights ship, as for `load_model`.
        out: the folder to create.
        calibration: a folder of dark images (at least two) to choose the int8 ranges on; None: embedded ones.
        pairs: a folder with `low` and `high` to measure on, without images of `calibration`; None: embedded ones.
        size: (width, height) of the pictures; None: 160x120 for `mcu` and its like, 480x360 for `photo`, else 256x256.
        target: a name of `TARGETS`; None: the board for `mcu` and its like, else LiteRT.
        sketch: the folder of the sketch to put the model into if every stage is within its tolerance; None: none.
        arena_limit: largest arena in bytes; None: that of the sketch for its target, else no limit.
        flash_limit: largest int8 model in bytes; None: that of the sketch for its target, else no limit.
        replace: replace an `out` that an earlier conversion made.

    Raises:
        UserError: an argument cannot be used, or the model breaks the contract of the target or of the sketch.
    """
    out = Path(os.path.abspath(out))
    _check_out(out, replace=replace)
    model = load_model(checkpoint)
    config = model.config
    on_board = contract.runs_on_board(config)
    chosen = find_target(target or ("arduino-tflm" if on_board else "litert"))
    if chosen.c_arrays and isinstance(config, PhotoConfig):
        raise UserError(f"photo does not fit a microcontroller, and computes partly in float: leave out --target "
                        f"{chosen.name}")
    size = size or default_size(model)
    check_size(model, size)
    if config.in_channels not in (1, 3):
        raise UserError(f"only networks for grey or RGB pictures can be converted, not {config.in_channels} channels")
    if sketch is not None:
        if not chosen.c_arrays:
            raise UserError(f"--sketch needs C++, which --target {chosen.name} does not write: leave out --target")
        contract.check_folder(Path(sketch))
    limits: dict[str, int | None] = {"arena": arena_limit, "flash": flash_limit}
    if chosen.c_arrays:
        contract.check_network(config, size)
        limits = {"arena": contract.SKETCH.arena_limit if arena_limit is None else arena_limit,
                  "flash": contract.SKETCH.flash_limit if flash_limit is None else flash_limit}
    work = _macs(model, size)
    calibrated_on = calibration_frames(calibration, size=size, channels=config.in_channels,
                                       most=_affordable(MOST_CALIBRATION, CALIBRATION_MACS, work, at_least=8))
    tested_on = paired_frames(pairs, size=size, channels=config.in_channels,
                              most=_affordable(MOST_TESTED, TEST_MACS, work, at_least=2))
    require_disjoint(calibrated_on, tested_on)

    with _folder_for(out, replace=replace) as folder, _two_threads(), progress(total=len(STEPS), unit="step") as bar:
        def show(step: str) -> None:
            bar.set_description(step)
            bar.update(STEPS.index(step) - bar.n)

        show("deployable form")
        range_frames = calibrated_on.pick(_affordable(MOST_EQUALISED, EQUALISED_MACS, work, at_least=2))
        prepared = prepare(model, size, _to_float(range_frames.dark))
        stem = Path(checkpoint).stem
        equalised_path = folder / f"{stem}_equalised.safetensors"
        save_model(prepared.equalised, equalised_path)
        digest = hashlib.sha256(weights_file(checkpoint).read_bytes()).hexdigest()
        artefacts = bridge_convert(prepared, calibrated_on, folder, target=chosen.name, name=stem, on_step=show,
                                   metadata=_metadata(model, digest), arena_limit=limits["arena"],
                                   flash_limit=limits["flash"])
        any_size = None
        if isinstance(prepared.equalised, PhotoMIRNet):
            any_size = folder / f"{stem}_any_size.onnx"
            export_any_size(prepared.equalised, any_size, metadata=_metadata(model, digest))

        show("parity")
        slow = _too_slow(work * len(tested_on.names))
        shown = tested_on.pick(SHOWN)
        picked = [tested_on.names.index(name) for name in shown.names]
        rows = [dataclasses.replace(row, output=None, pictures=None if row.pictures is None else row.pictures[picked])
                for row in measure(prepared, artefacts, tested_on, slow=slow)]
        if any_size is not None:
            place = [row.stage for row in rows].index("ONNX") + 1
            rows.insert(place, compare_sizes(prepared, any_size, tested_on))

        show("layers")
        layers, layers_note = _compare_layers(artefacts, work, prepared.to_core(_to_float(shown.dark[:1])))

        show("report")
        subject = report.Subject(
            checkpoint=Path(checkpoint).name, checkpoint_sha256=digest, config=config.to_dict(),
            parameters=parameter_count(model), image=size, target=chosen.name, target_summary=chosen.summary,
            calibration=_describe(calibrated_on), test_frames=_describe(tested_on),
            versions={name: version(name) for name in LIBRARIES}, limits=limits)
        listed = {path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
                  for path in sorted(folder.iterdir())}
        content = report.Content(subject, rows, layers, layers_note, artefacts.graph, artefacts.cost, listed)
        report.write_json(folder / "report.json", content)
        report.write_html(folder / "report.html", content, names=shown.names, dark=shown.dark, bright=shown.bright)
        bar.update()
    done = Conversion(
        folder=out, equalised=out / equalised_path.name, onnx=out / artefacts.onnx.name,
        any_size=any_size and out / any_size.name,
        float32=out / artefacts.float32.name, float16=out / artefacts.float16.name, int8=out / artefacts.int8.name,
        c_files=tuple(out / path.name for path in artefacts.c_files), report_json=out / "report.json",
        report_html=out / "report.html", target=chosen.name, operators=artefacts.graph.counts(), parity=tuple(rows),
        layers=tuple(layers), cost=artefacts.cost, verdict=report.verdict(rows),
        sentences=(*without_light(calibrated_on), *report.summary(rows, layers, artefacts.cost)))
    if sketch is not None and not done.missed:
        contract.install(done.c_files, Path(sketch))
    return done


def bridge_convert(prepared: Prepared, calibration: Frames, folder: Path, *, target: str, **options: Any) -> Artefacts:
    """Call `chain.convert` for a prepared network; for targets with a sketch, add what the sketch needs.

    The golden vectors always show an embedded photograph, never a picture of the user.
    """
    config = prepared.model.config
    if find_target(target).c_arrays and isinstance(config, CompactConfig):
        photograph = paired_frames(None, size=prepared.size, channels=config.in_channels).dark[:1]
        options |= {"golden": prepared.to_core(_to_float(photograph)),
                    "extra": lambda graph: contract.header(graph, config, prepared.size)}
    return chain.convert(prepared.network, prepared.input_shape, prepared.to_core(_to_float(calibration.dark)), folder,
                         target=target, quantised=prepared.quantised, **options)


def measure(prepared: Prepared, artefacts: Artefacts, frames: Frames, *, slow: str = "") -> list[Row]:
    """Compare every stage on some frames, and measure the PSNR of the finished pictures if the frames have truths.

    Args:
        prepared: the network.
        artefacts: the bridge's result for it.
        frames: pictures that it was not calibrated on.
        slow: why the reference kernels are not run; "": they are run.
    """
    images = _to_float(frames.dark)
    links = stages(prepared.network, prepared.input_shape, artefacts, original=prepared.original, slow=slow,
                   partly=bool(prepared.quantised))
    rows = []
    for row in compare_stages(links, prepared.to_core(images)):
        if row.output is not None:
            pictures = prepared.to_pictures(images, row.output)
            score = None
            if frames.bright is not None:
                score = mean_score(psnr(_rgb(report.to_levels(picture)), _rgb(truth))
                                   for picture, truth in zip(pictures, frames.bright))
            row = dataclasses.replace(row, psnr=score, pictures=pictures)
        rows.append(row)
    return rows


def compare_sizes(prepared: Prepared, any_size: Path, frames: Frames) -> Row:
    """Compare the ONNX file for any size with PyTorch on crops of a frame in `SIZES` sizes, whole pictures all."""
    original, _ = prepared.original
    stage = OnnxStage(any_size, 2)
    height, width, _ = prepared.input_shape
    expected, found = [], []
    for number, (rows, columns) in enumerate(SIZES):
        frame = _to_float(frames.dark[number % len(frames.names)][None, :round(rows * height), :round(columns * width)])
        with torch.no_grad():
            expected.append(nhwc(original(nchw(frame))).ravel())
        found.append(stage.run_raw(frame).ravel())
    change = compare(np.concatenate(expected), np.concatenate(found))
    return Row("ONNX, any size", "PyTorch", change, change, tolerance=chain.TOLERANCES["ONNX, any size"])


def _check_out(out: Path, *, replace: bool) -> None:
    if out.is_dir() and any(out.iterdir()):
        if not replace:
            raise UserError(f"{out} exists already: give another --out, or --force to replace what a conversion made")
        if not (out / "report.json").is_file():
            raise UserError(f"{out} was not made by a conversion (no report.json in it): it is not replaced")
    elif out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder that does not exist yet")


@contextlib.contextmanager
def _two_threads() -> Iterator[None]:
    """Let PyTorch use two threads, as the other runtimes do: with others, sums are rounded in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _folder_for(out: Path, *, replace: bool) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` at the end; after an exception `out` is unchanged."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        workshop = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))  # same disk, so it can be renamed
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; give another --out") from error
    made, aside = workshop / out.name, workshop / "replaced"
    lock = os.open(workshop, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # the file system has no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            made.mkdir()
            yield made
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UserError(f"cannot write {out}: {error.strerror}; free some space or give an --out on another "
                            "disk") from error
        if replace and out.exists():
            os.rename(out, aside)
        os.rename(made, out)
    finally:
        if aside.exists() and not out.exists():
            os.rename(aside, out)
        shutil.rmtree(workshop, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(out: Path) -> None:
    """Remove what killed runs for `out` left behind; a running one holds a lock on its folder."""
    for workshop in out.parent.glob(f".{glob.escape(out.name)}-????????"):
        with contextlib.suppress(OSError):  # it is locked, or not a folder
            lock = os.open(workshop, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.listdir(workshop) == [out.name]:  # do not delete an earlier OUT that was moved here
                    shutil.rmtree(workshop)
            finally:
                os.close(lock)


def _metadata(model: Network, digest: str) -> dict[str, str]:
    return {"mirnet_torch": mirnet_torch.__version__, "checkpoint_sha256": digest,
            "config": json.dumps(model.config.to_dict(), sort_keys=True)}


def _macs(model: Network, size: Size) -> float:
    """Count the network's multiply-accumulates for one picture on the meta device."""
    import copy

    from torch.utils.flop_counter import FlopCounterMode

    width, height = size
    shape = copy.deepcopy(model).to("meta")
    image = torch.empty(1, model.config.in_channels, height, width, device="meta")
    with FlopCounterMode(display=False) as counter:
        shape.core(shape.to_core(image))
        if isinstance(shape, PhotoMIRNet):
            shape.refine(image, image)
    return counter.get_total_flops() / 2


def _affordable(most: int, budget: float, work: float, *, at_least: int) -> int:
    """Return how many frames a step may use: at most `most` and at most what `budget` multiply-accumulates allow."""
    return max(at_least, min(most, int(budget / work)))


def _too_slow(work: float) -> str:
    return "" if work <= REFERENCE_MACS else (f"{work / 1e9:,.0f} G multiply-accumulates are too many for reference "
                                              "kernels; compare.py runs them")


def _to_float(frames: np.ndarray) -> np.ndarray:
    return frames.astype(np.float32) / np.float32(255)


def _describe(frames: Frames) -> str:
    return f"{len(frames.names)} frames ({frames.source})"


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.broadcast_to(picture, (*picture.shape[:2], 3))


def _compare_layers(artefacts: Artefacts, work: float, core: np.ndarray) -> tuple[list[LayerDifference], str]:
    """Compare all tensors of the float and the int8 model on one picture, with the board's rounding if possible.

    Returns:
        The layers, and the reason if there are none.
    """
    need = LAYER_BYTES * sum(t.nbytes for operator in artefacts.graph.operators for t in operator.outputs)
    if need > MOST_LAYER_BYTES:
        return [], f"all tensors at once would take {need / 1e9:.0f} GB; convert at a smaller --size to see them"
    try:
        partly = artefacts.graph.outputs[0].dtype != "int8"
        reference = work <= REFERENCE_MACS and not partly
        int8 = open_stage(artefacts.int8, runtime="litert-reference" if reference else "litert")
    except UserError:  # the reference kernels lack an operator; the parity table says which
        int8 = open_stage(artefacts.int8)
    return layerwise(open_stage(artefacts.float32), int8, core), ""

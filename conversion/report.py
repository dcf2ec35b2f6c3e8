"""The results of a conversion as a table, as `report.json` and as a page, `report.html`.

The page is one file with all pictures and drawings in it, also for printing. From top to bottom it shows the verdict, a
summary, the parity table (with a link that saves it as CSV), the pictures of every stage, the layers that lose most,
and where time and memory go.
"""
from __future__ import annotations

import base64
import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from PIL import Image

from conversion.bridge.chain import LEVEL, Row
from conversion.bridge.cost import Cost
from conversion.bridge.difference import Difference, LayerDifference
from conversion.bridge.graph import Graph

TEMPLATE = Path(__file__).with_name("report_template.html")
WORST = 12  # layers listed on the page before the fold
NOISE = 0.05  # dB; a gain of PSNR below it is rounding, not a better picture
ROUNDING = 0.5 / 255  # a difference below it moves a level of 8 bits by rounding only
CLOCK = 64e6  # Hz, of the Arduino Nano 33 BLE's Cortex-M4
CYCLES = (1.0, 1.5)  # an instruction, assumed: most take one, loads, branches and the flash's waits more


@dataclass(frozen=True)
class Subject:
    """What was converted, for the head of the report. Nothing depends on the machine or the date."""

    checkpoint: str
    checkpoint_sha256: str
    config: dict[str, Any]
    parameters: int
    image: tuple[int, int]  # width, height
    target: str
    target_summary: str
    calibration: str
    test_frames: str
    versions: dict[str, str]
    limits: dict[str, int | None]


@dataclass(frozen=True)
class Content:
    """The content of a report."""

    subject: Subject
    rows: Sequence[Row]
    layers: Sequence[LayerDifference]
    layers_note: str  # the reason if there are no layers
    graph: Graph
    cost: Cost
    files: dict[str, dict[str, Any]]  # name: bytes, sha256


def format_table(rows: Sequence[Row]) -> str:
    """Return the parity table as text; differences are from the stage that `Row.before` names, and from PyTorch."""
    head = ("stage", "max", "mean", "SQNR", "to PyTorch", "SQNR", "PSNR", "tolerance")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) if i in (0, 7) else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in cells]
    lines[1:] = [f"{row.stage.ljust(widths[0])}  not run: {row.skipped}" if row.skipped else line
                 for row, line in zip(rows, lines[1:])]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths)), *lines[1:]])


def _cells(row: Row) -> tuple[str, ...]:
    change, total = row.change, row.total
    verdict = {None: "", True: "ok", False: "MISSED"}[row.passed]
    return (row.stage,
            *([_number(change.max, row.in_steps), _number(change.mean, row.in_steps), _db(change.sqnr_db)]
              if change else [""] * 3),
            *([_number(total.max), _db(total.sqnr_db)] if total else [""] * 2),
            "" if row.psnr is None else f"{row.psnr:.2f}",
            f"{row.tolerance} {verdict}".strip() if row.tolerance else "")


def _number(value: float, in_steps: bool = False) -> str:
    if value == 0:
        return "0"
    return f"{value:.2g}" + (f" step{'' if value == 1 else 's'}" if in_steps else "")


def _db(value: float) -> str:
    return "equal" if value == math.inf else f"{value:.1f} dB"


def verdict(rows: Sequence[Row]) -> str:
    """Return one sentence: may the model be used, and if not, which stages are why."""
    compared = [row for row in rows if row.passed is not None]
    missed = [row for row in compared if not row.passed]
    if not missed:
        skipped = sum(bool(row.skipped) for row in rows)
        return (f"Passed: all {len(compared)} stages that have a tolerance are within it"
                f"{f'; {skipped} were not run' if skipped else ''}.")
    stages = "; ".join(f"{row.stage} (tolerance {row.tolerance}, measured {_measured(row)})" for row in missed)
    if any(row.tolerance is not None and row.tolerance.exact for row in missed):
        return f"Failed, do not use this model: not equal to the stage before: {stages}."
    return (f"Failed, not within the tolerance: {stages}; look at the pictures of the report, and try other "
            "pictures for --calibration.")


def _measured(row: Row) -> str:
    """Return what the tolerance of a row limits, as it was measured."""
    assert row.change is not None and row.tolerance is not None
    return {"max": f"{row.change.max:.2g}", "mean steps": f"{row.change.mean / (row.step or LEVEL):.2f} steps",
            "bytes": f"{row.change.differing} bytes", "SQNR": _db(row.change.sqnr_db)}[row.tolerance.measure]


def summary(rows: Sequence[Row], layers: Sequence[LayerDifference], cost: Cost) -> list[str]:
    """Return a few sentences that say where quality was lost and what the model costs."""
    sentences = []
    run = [row for row in rows if row.psnr is not None]
    if len(run) > 1:
        first, last = run[0], run[-1]
        assert first.psnr is not None and last.psnr is not None
        lost = first.psnr - last.psnr
        effect = f"costs {lost:.2f} dB" if lost >= 0.005 else "costs nothing"
        if lost <= -NOISE:
            effect = (f"changes the result by {-lost:.2f} dB, which is no gain, since a stage misses its tolerance"
                      if any(row.passed is False for row in rows) else f"gains {-lost:.2f} dB")
        sentences.append(f"Against ground truth {first.stage} reaches {first.psnr:.2f} dB and {last.stage} "
                         f"{last.psnr:.2f} dB: the conversion {effect}.")
        steps = [(before.psnr - after.psnr, after) for before, after in zip(run, run[1:])
                 if before.psnr is not None and after.psnr is not None]
        worst, row = max(steps, key=lambda item: item[0])
        if worst >= 0.005:
            sentences.append(f"The largest loss of one step is {worst:.2f} dB, at {row.stage}.")
    missed = [row for row in rows if row.passed is False]
    sentences += [f"{row.stage} misses its tolerance: {row.tolerance}." for row in missed]
    finite = worst_layers(layers)
    if finite:
        sentences.append("The layers that int8 hurts most, with their SQNR: " + ", ".join(
            f"{layer.b} ({layer.difference.sqnr_db:.1f} dB)" for layer in finite[:3]) + ".")
    kinds = ", ".join(f"{name} {100 * count / cost.instructions:.0f} %"
                      for name, count in list(cost.by_kind().items())[:3] if cost.instructions)
    guessed = sorted({item.operator.name for item in cost.operators if not item.calibrated})
    sentences.append(f"One picture takes {cost.macs / 1e6:,.1f} million multiply-accumulates and, predicted, "
                     f"{cost.instructions / 1e6:,.1f} million instructions of a Cortex-M4 with -{cost.optimisation} "
                     f"and the library's kernels ({kinds}"
                     + (f"; roughly guessed: {', '.join(guessed)}" if guessed else "")
                     + f"); the model has {cost.flash_bytes:,} bytes; on a 32-bit board its arena needs "
                     f"{cost.arena_bytes:,} bytes, and a better plan could save at most "
                     f"{cost.head_bytes - cost.floor_bytes:,}.")
    return sentences


def worst_layers(layers: Sequence[LayerDifference]) -> list[LayerDifference]:
    """Sort layers by their SQNR, the worst first; layers that are equal or hold only zeros are left out."""
    finite = [layer for layer in layers if math.isfinite(layer.difference.sqnr_db)]
    return sorted(finite, key=lambda layer: layer.difference.sqnr_db)


def write_json(path: Path, content: Content) -> None:
    """Write the content as JSON; infinite SQNR (equal tensors) is null."""
    cost, subject = content.cost, content.subject
    document = {
        "subject": {**vars(subject), "image": list(subject.image)},
        "parity": [_json_row(row) for row in content.rows],
        "verdict": verdict(content.rows),
        "summary": summary(content.rows, content.layers, cost),
        "layers": [{"float": layer.a, "int8": layer.b, "module": layer.module, "shape": list(layer.shape),
                    "step": layer.step, **_json_difference(layer.difference)} for layer in content.layers],
        "layers_note": content.layers_note or None,
        "operators": [{"index": item.operator.index, "operator": item.operator.name,
                       "version": item.operator.version, "activation": item.operator.activation,
                       "output": item.operator.outputs[0].name, "shape": list(item.operator.outputs[0].shape),
                       "macs": item.macs, "predicted_instructions": item.instructions,
                       "calibrated": item.calibrated, "weight_bytes": item.weight_bytes,
                       "activation_bytes": item.activation_bytes} for item in cost.operators],
        "operator_counts": content.graph.counts(),
        "arena": {"bytes": cost.arena_bytes, "tensor_bytes": cost.head_bytes, "bookkeeping_bytes": cost.tail_bytes,
                  "floor_bytes": cost.floor_bytes, "floor_operator": cost.floor_operator,
                  "buffers": [vars(buffer) for buffer in cost.buffers]},
        "macs": cost.macs, "predicted_instructions": cost.instructions, "optimisation": cost.optimisation,
        "flash_bytes": cost.flash_bytes, "weight_bytes": cost.weight_bytes, "files": content.files,
    }
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def _json_row(row: Row) -> dict[str, Any]:
    return {"stage": row.stage, "before": row.before, "change": row.change and _json_difference(row.change),
            "total": row.total and _json_difference(row.total), "psnr_db": _finite(row.psnr),
            "step": row.step, "change_in_steps": row.in_steps,
            "tolerance": str(row.tolerance) if row.tolerance else None, "passed": row.passed,
            "skipped": row.skipped or None}


def _json_difference(difference: Difference) -> dict[str, Any]:
    return {"max": _finite(difference.max), "mean": _finite(difference.mean), "sqnr_db": _finite(difference.sqnr_db),
            "where": [int(i) for i in difference.where], "differing": difference.differing, "size": difference.size}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def write_html(path: Path, content: Content, *, names: Sequence[str], dark: np.ndarray,
               bright: np.ndarray | None) -> None:
    """Write the page.

    Args:
        path: the file to write.
        content: the content of the report.
        names: names of the pictures shown.
        dark: the inputs of these pictures, uint8 (n, H, W, C); every row with pictures has at least n.
        bright: their ground truth, or None.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    environment.filters.update(thousands=lambda value: f"{value:,}", db=_db, number=_number)
    rows, layers, cost = content.rows, content.layers, content.cost
    worst = worst_layers(layers)
    page = environment.from_string(TEMPLATE.read_text()).render(
        subject=content.subject, rows=rows, verdict=verdict(rows), passed=all(row.passed is not False for row in rows),
        summary=summary(rows, layers, cost), graph=content.graph, cost=cost, files=content.files,
        milliseconds=[1000 * cost.instructions * cycles / CLOCK for cycles in CYCLES], clock=CLOCK / 1e6,
        cycles=CYCLES, table=_as_csv(rows),
        layers_note=content.layers_note, worst=worst[:WORST], others=worst[WORST:],
        strip=_layer_strip(layers), arena=_arena_drawing(cost),
        galleries=[_gallery(i, name, rows, dark, bright) for i, name in enumerate(names)],
        busiest=max((item.instructions for item in cost.operators), default=0) or 1)
    path.write_text(page)


def _as_csv(rows: Sequence[Row]) -> str:
    """Return the parity table as CSV inside a data URI."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["stage", "against", "max", "mean", "sqnr_db", "differing", "size", "max_to_pytorch",
                     "sqnr_to_pytorch_db", "psnr_db", "tolerance", "passed", "not_run"])
    for row in rows:
        change, total = row.change, row.total
        writer.writerow([
            row.stage, row.before,
            *([change.max, change.mean, change.sqnr_db, change.differing, change.size] if change else [""] * 5),
            *([total.max, total.sqnr_db] if total else [""] * 2), "" if row.psnr is None else row.psnr,
            row.tolerance or "", "" if row.passed is None else row.passed, row.skipped or ""])
    return "data:text/csv;base64," + base64.b64encode(stream.getvalue().encode()).decode()


def _gallery(index: int, name: str, rows: Sequence[Row], dark: np.ndarray, bright: np.ndarray | None) -> dict[str, Any]:
    """The pictures of one frame: input, truth, and every stage with its difference from PyTorch, all amplified alike.

    Equal is grey. The factor is a power of two that makes 99 % of the largest difference fit. Differences that only
    rounding to 8 bits would show have no picture.
    """
    shown = [row for row in rows if row.pictures is not None]
    tiles = [{"title": "input", "picture": data_uri(dark[index]), "difference": "",
              "note": "as the camera delivers it"}]
    if bright is not None:
        tiles.append({"title": "ground truth", "picture": data_uri(bright[index]), "difference": "", "note": ""})
    pictures = [np.asarray(row.pictures[index], np.float64) for row in shown if row.pictures is not None]
    differences = [picture - pictures[0] for picture in pictures]
    largest = [float(np.abs(difference).max()) for difference in differences]
    spread = max((float(np.quantile(np.abs(difference), 0.99)) for difference, most in zip(differences, largest)
                  if ROUNDING <= most < math.inf), default=0.0)
    factor = 2.0 ** math.floor(math.log2(0.5 / max(spread, ROUNDING)))
    for number, (row, picture, difference, most) in enumerate(zip(shown, pictures, differences, largest)):
        tile = {"title": row.stage, "picture": data_uri(to_levels(picture)), "difference": "", "note": ""}
        if number and most < ROUNDING:
            tile["note"] = "equal to PyTorch" if most == 0 else (
                f"equal to rounding: at most {255 * most:.1g} of a level from PyTorch")
        elif number and not math.isfinite(most):
            tile["note"] = "holds NaN or infinity, or PyTorch's picture does"
        elif number:
            tile["difference"] = data_uri(to_levels(0.5 + factor * difference))
            tile["note"] = (f"from PyTorch at most {255 * most:.2g} of 255 levels, mean "
                            f"{255 * np.abs(difference).mean():.2g}")
        tiles.append(tile)
    return {"name": name, "tiles": tiles, "factor": factor if spread else 0, "range": 127.5 / factor}


def to_levels(picture: np.ndarray) -> np.ndarray:
    """Round a picture in [0, 1] to 8 bits; NaN becomes black."""
    return (np.clip(np.nan_to_num(picture, nan=0.0, posinf=1.0), 0, 1) * 255).round().astype(np.uint8)


def data_uri(picture: np.ndarray) -> str:
    """Return a uint8 picture (H, W, C) as a PNG inside a data URI."""
    stream = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _ticks(top: float) -> list[float]:
    """Return some round numbers from 0 to `top` for an axis."""
    step = 10.0 ** math.floor(math.log10(max(top, 1e-9)))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if top / (step * part) <= 6)
    return [step * i for i in range(int(top / step) + 1)]


def _layer_strip(layers: Sequence[LayerDifference]) -> dict[str, Any]:
    """Bars of every layer's SQNR in execution order, 1000 wide and 100 high, with the ticks of the axis."""
    finite = [layer for layer in layers if math.isfinite(layer.difference.sqnr_db)]
    top = max((layer.difference.sqnr_db for layer in finite), default=1.0)
    width = 1000 / max(len(finite), 1)
    return {"width": width, "top": top, "ticks": [(100 - 100 * value / top, value) for value in _ticks(max(top, 1.0))],
            "bars": [{"x": i * width, "height": max(1.0, 100 * max(layer.difference.sqnr_db, 0) / top), "layer": layer,
                      "hue": round(max(0.0, min(120.0, 6 * (layer.difference.sqnr_db - 10))))}
                     for i, layer in enumerate(finite)]}


def _arena_drawing(cost: Cost) -> dict[str, Any]:
    """Buffers as rectangles: operators from left to right, bytes of the arena from bottom to top."""
    columns, height = max(len(cost.operators), 1), 360.0
    scale_x, scale_y = 1000 / columns, height / max(cost.head_bytes, 1)
    boxes = []
    for buffer in cost.buffers:
        boxes.append({"x": buffer.first * scale_x, "width": (buffer.last - buffer.first + 1) * scale_x,
                      "y": height - (buffer.offset + buffer.nbytes) * scale_y, "height": buffer.nbytes * scale_y,
                      "buffer": buffer, "hue": 190 + (hash_hue(buffer.name) % 70)})
    live = [sum(b.nbytes for b in cost.buffers if b.first <= i <= b.last) for i in range(columns)]
    return {"boxes": boxes, "height": height, "columns": columns, "scale_x": scale_x,
            "live": [height - value * scale_y for value in live],
            "bytes": [(height - value * scale_y, value) for value in _ticks(max(cost.head_bytes, 1))],
            "operators": [((int(value) + 0.5) * scale_x, int(value)) for value in _ticks(columns)
                          if value == int(value) < columns]}


def hash_hue(name: str) -> int:
    """Return a number that depends only on the name; Python's `hash` differs from run to run."""
    return sum(ord(letter) * (i + 1) for i, letter in enumerate(name))

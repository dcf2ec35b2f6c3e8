"""Compare designs of the `mcu` network: an equal short training of each, and what it would cost the board.

    python conversion/search.py --data LOL --out build/search                    every design, about 4 minutes each
    python conversion/search.py --data LOL --out build/search --only mcu s4      some of them
    python conversion/search.py --data LOL --out build/search --only ablation    the network without one of its elements

Each design is trained with the recipe of the preset, the same seed and number of epochs, then converted to int8; the
operators of the .tflite give multiply-accumulates, instructions and bytes. How bright a scene was is a guess that
scatters; so the last column tells the PSNR that the pictures would have, were their brightness right. OUT keeps one
folder per design: what is finished is not done again, what was interrupted goes on. The table of all that OUT holds is
printed and written to OUT/search.md.
"""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Sequence

if not __package__:  # run as a script: this folder's modules must not hide others of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mirnet_torch.cli import UserError, atomic_path, make_folder, run_command  # noqa: E402
from mirnet_torch.model import MIRNetConfig  # noqa: E402

MCU = MIRNetConfig.preset("mcu")
EPOCHS = 30
ROW = "row.json"
DESIGNS = {  # what differs from the preset
    "mcu": ("", MCU),
    "full": ("the paper's exchange: two columns, between them everything to every stream",
             replace(MCU, width=2, exchange="full")),
    "s4": ("cells of 4x4 pixels: 40x30 positions", replace(MCU, shuffle=4)),
    "s4-tail3": ("4x4 cells, 3x3 convolutions at the ends of MSRB and RRG", replace(MCU, shuffle=4, tail_kernel=3)),
    "s4-narrow": ("4x4 cells, 12 and 24 channels", replace(MCU, shuffle=4, n_feat=12, widths=(12, 24))),
    "tail3": ("3x3 convolutions at the ends of MSRB and RRG", replace(MCU, tail_kernel=3)),
    "ends3": ("3x3 convolutions at entry and exit", replace(MCU, kernel_size=3)),
    "wide": ("16 and 32 channels", replace(MCU, widths=(16, 32))),
    "narrow": ("12 and 16 channels", replace(MCU, n_feat=12, widths=(12, 16))),
    "streams3": ("three streams, 16, 24 and 32 channels", replace(MCU, height=3, widths=(16, 24, 32))),
    "blocks2": ("two MSRBs", replace(MCU, n_MSRB=2)),
    "smooth": ("PReLU and sigmoids, as in the paper", replace(MCU, activation="prelu", gate="sigmoid")),
    "resample": ("the paper's residual resampling, 16 and 32 channels",
                 replace(MCU, resample="residual", widths=(16, 32))),
    "dual": ("the paper's attention: no peaks, positions from maximum and mean", replace(MCU, attention="dual")),
    "additive": ("the paper's head: an image is added", replace(MCU, head="residual")),
}
ABLATION = {  # one element of MIRNet left out
    "no-streams": ("one stream: no multi-scale features", replace(MCU, height=1, widths=(16,))),
    "no-exchange": ("streams that all begin with the frame and meet at the end only", replace(MCU, exchange="none")),
    "no-attention": ("DAUs without spatial and channel attention", replace(MCU, attention="none")),
    "no-skff": ("the mean of the streams instead of SKFF", replace(MCU, fusion="mean")),
}


ALL = {**DESIGNS, **ABLATION}
GROUPS = {"designs": list(DESIGNS), "ablation": ["mcu", *ABLATION], "all": list(ALL)}


def measure(config: MIRNetConfig, folder: Path, *, data: Path | None, epochs: int, seed: int) -> dict[str, Any]:
    """Train a design, convert it, and return its row of the table; `folder` keeps the files.

    Raises:
        UserError: `folder` holds a training under other conditions, or what `mirnet_torch.train.train` raises.
        TrainingInterrupted: Ctrl-C or SIGTERM; the next call goes on from there.
    """
    import numpy as np

    from conversion.cost import cost
    from conversion.deploy import deployable
    from conversion.frames import calibration_frames
    from conversion.graph import read_graph
    from conversion.judge import judge
    from conversion.onnx_export import export_onnx
    from conversion.parity import images_to_core
    from conversion.pipeline import CAMERA_SIZE
    from conversion.tflite import ConversionError, to_tflite
    from mirnet_torch.checkpoint import load_model
    from mirnet_torch.data import find_pairs, validation_frames
    from mirnet_torch.enhance import enhance
    from mirnet_torch.model import parameter_count
    from mirnet_torch.train import LAST, TrainOptions, resume, train

    make_folder(folder)
    options = TrainOptions.for_preset("mcu", data=data, config=folder / "config.json", epochs=epochs, seed=seed,
                                      out=folder / "run")
    recipe = {name: value for name, value in options.to_dict().items() if name not in ("config", "out")}
    _write_once(folder / "config.json", config.to_dict())
    _write_once(folder / "recipe.json", recipe)
    if (folder / ROW).is_file():
        return _read(folder / ROW)
    result = resume(folder / "run") if (folder / "run" / LAST).exists() else train(options)
    model = load_model(result.best)
    width, height = CAMERA_SIZE
    deployed = deployable(model, height=height, width=width)
    frames = calibration_frames(None, size=CAMERA_SIZE, channels=3).pick(4)  # the costs do not depend on them
    export_onnx(deployed, folder / "network.onnx", metadata={})
    calibration = images_to_core(deployed, frames.dark.astype(np.float32) / 255)
    validation = list(validation_frames(find_pairs(data, "val") if data else None, CAMERA_SIZE, seed=seed))
    quality = judge([enhance(model, dark) for _, dark, _ in validation], [truth for _, _, truth in validation])
    row: dict[str, Any] = {"parameters": parameter_count(model), **asdict(quality)}
    try:
        weighed = cost(read_graph(to_tflite(folder / "network.onnx", folder, calibration=calibration).int8))
        row |= {"macs": weighed.macs, "instructions": weighed.instructions, "arena": weighed.arena_bytes}
    except ConversionError as error:  # of what is trained only to be compared
        print(f"no costs: {error}", file=sys.stderr)
    _write_once(folder / ROW, row)
    return row


def _write_once(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, or make sure that it says the same already."""
    text = json.dumps(content, indent=1) + "\n"
    if not path.exists():
        with atomic_path(path) as part:
            part.write_text(text)
    elif _read(path) != json.loads(text):
        raise UserError(f"{path.parent} holds this design trained otherwise ({path.name} differs): give another --out")


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is damaged: remove {path.parent}") from None


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows, which `measure` made, as a Markdown table in the order of `ALL`."""
    lines = ["| design | differs from `mcu` in | parameters | MMAC | predicted million instructions | arena, B "
             "| PSNR, dB | SSIM | with the brightness given, dB |", "|---|---|---|---|---|---|---|---|---|"]
    for name, (text, _) in ALL.items():
        if name in rows:
            row = rows[name]
            costs = [f"{row['macs'] / 1e6:.1f}", f"{row['instructions'] / 1e6:.1f}",
                     f"{row['arena']:,}"] if "macs" in row else ["not converted", "", ""]
            lines.append("| " + " | ".join([name, text, f"{row['parameters']:,}", *costs, f"{row['psnr']:.2f}",
                                            f"{row['ssim']:.3f}", f"{row['psnr_at_best_gain']:.2f}"]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    from mirnet_torch.train import TrainingInterrupted

    unknown = [name for name in options.only if name not in ALL and name not in GROUPS]
    if unknown:
        raise UserError(f"there is no design {', '.join(unknown)}; there are: {', '.join(ALL)}, and the groups "
                        f"{', '.join(GROUPS)}")
    out = make_folder(options.out)
    for name in dict.fromkeys(name for given in options.only for name in GROUPS.get(given, [given])):
        print(f"{name}: {ALL[name][0] or 'the preset'}", flush=True)
        try:
            measure(ALL[name][1], out / name, data=options.data, epochs=options.epochs, seed=options.seed)
        except TrainingInterrupted as interruption:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return 128 + interruption.signal_number
        done = table({path.parent.name: _read(path) for path in out.glob(f"*/{ROW}")})
        with atomic_path(out / "search.md") as path:
            path.write_text(done + "\n")
    print(done)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="search", formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description=__doc__, epilog="designs:\n" + "\n".join(
                                         f"  {name:14s}{text or 'the preset'}" for name, (text, _) in ALL.items()))
    parser.add_argument("--data", type=Path, metavar="DIR", help="pairs to train on, as for mirnet_torch.train "
                                                                 "(default: photographs inside scikit-image)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for runs and table")
    parser.add_argument("--only", nargs="+", default=["all"], metavar="NAME", help="designs of the "
                        "list below, or groups: designs, ablation (with mcu, to compare with), all (default: all)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"of each training (default: {EPOCHS})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of each training (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Convert a checkpoint to TFLite and C arrays, with a proof of every step.

    python conversion/to_tflite.py --checkpoint mcu --out build/mcu
    python conversion/to_tflite.py --checkpoint best.safetensors --calibration night_photos --out build/best
"""
from __future__ import annotations

import argparse
import re
import signal
import sys
from pathlib import Path
from typing import Any, Sequence

if not __package__:  # run as a script: this folder's modules must not hide others of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mirnet_torch.cli import UserError, run_command  # noqa: E402

EPILOG = """\
what OUT holds afterwards:
  NAME_equalised.safetensors  the same network with weights that lose less in int8
  NAME.onnx                 its deployable form: static shape, equal to the network to float rounding
  NAME_float32.tflite, NAME_float16.tflite, NAME_int8.tflite
  model_data.h/.cpp         the int8 model for the sketch (only for --target arduino-tflm)
  golden_vectors.h/.cpp     an input and the output that the board must compute from it
  report.html, report.json  what every step cost: parity, pictures, layers, operators, memory

examples:
  python conversion/to_tflite.py --checkpoint mcu --out build/mcu
  python conversion/to_tflite.py --checkpoint best.safetensors --calibration night_photos --out build/best
  python conversion/to_tflite.py --checkpoint MIRNet_enhance.pth --size 256x256 --target litert --out build/paper

On two cores it takes about a minute for mcu; for the published network at 256x256 up to an hour, and 9 GB of
memory.

The last line tells whether every stage kept to its bar; exit status: 0 yes, 1 a stage differs where it must not, 2 the
arguments, the model or the disk do not allow it (OUT is then as it was), 130 after Ctrl-C (OUT likewise).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    from conversion.pipeline import convert  # after the arguments: TensorFlow takes its time
    from conversion.report import format_table

    done = convert(options.checkpoint, options.out, calibration=options.calibration, pairs=options.pairs,
                   size=options.size, target=options.target, arena_limit=options.arena_limit,
                   flash_limit=options.flash_limit, replace=options.force)
    print(format_table(done.parity))
    print()
    for sentence in done.sentences:
        print(sentence)
    print("Operators: " + ", ".join(f"{count} {name}" for name, count in done.operators.items()))
    print(f"Look at {done.report_html}")
    broken = [row.stage for row in done.missed if row.bar is not None and row.bar.exact]
    if broken:
        print(f"error: not equal to the stage before: {', '.join(broken)}; do not use this model", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="to_tflite", description="Convert a MIRNet from PyTorch to float32, float16 and int8 TFLite and to C "
        "arrays for a microcontroller, comparing every stage with the one before on real pictures. Works offline.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="FILE",
                        help="weights: .safetensors or a training checkpoint of this project, a published .pth, or the "
                             "name of a preset whose weights ship (mcu)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make; it appears whole or not at all")
    parser.add_argument("--calibration", metavar="DIR",
                        help="pictures of the kind the model will see, dark ones and some normally lit, at least 2, "
                             "better 50 (or a folder with low/): their range of values becomes that of int8 (default: "
                             "photographs that come with scikit-image, darkened)")
    parser.add_argument("--pairs", metavar="DIR",
                        help="pairs to measure PSNR on, in low/ and high/, none of them in --calibration (default: two "
                             "other photographs of scikit-image, darkened)")
    parser.add_argument("--size", type=_size, metavar="WxH",
                        help="size of the pictures, fixed in the model; all pictures are cropped to its aspect and "
                             "box-filtered (default: 160x120 for networks made for a camera frame, else 256x256)")
    parser.add_argument("--target", metavar="NAME",
                        help="the runtime whose contract the int8 model must keep: arduino-tflm, the TFLite Micro "
                             "library for Arduino, or litert (default: arduino-tflm for networks made for it, else "
                             "litert)")
    parser.add_argument("--arena-limit", type=_bytes, metavar="BYTES",
                        help="refuse a model whose arena on a 32-bit board needs more, e.g. 160k (default: what the "
                             "target can give)")
    parser.add_argument("--flash-limit", type=_bytes, metavar="BYTES",
                        help="refuse an int8 model that is larger (default: what the target can give)")
    parser.add_argument("--force", action="store_true", help="replace OUT if an earlier conversion made it")
    return parser


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match:
        raise UserError(f"{text!r} is no size: give width x height, such as 160x120")
    return int(match[1]), int(match[2])


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([\d_,]+)([kKmM]?)", text)
    if not match or not match[1].strip("_,"):
        raise UserError(f"{text!r} is no number of bytes: give one such as 180000 or 180k")
    return int(re.sub("[_,]", "", match[1])) * {"": 1, "k": 1000, "m": 1000_000}[match[2].lower()]


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # clean up as after Ctrl-C
    sys.exit(run_command(main))

"""Convert a checkpoint to TFLite and C arrays, and compare every stage with the one before.

    python conversion/to_tflite.py --checkpoint mcu --out build/mcu
    python conversion/to_tflite.py --checkpoint best.safetensors --calibration night_photos --out build/best
"""
from __future__ import annotations

import argparse
import functools
import re
import signal
import sys
from pathlib import Path
from typing import Any, Sequence

if not __package__:  # run as a script: this folder's modules must not hide others of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mirnet_torch.cli import Parser, folder_path, parse_size, program, require_extra, run_command  # noqa: E402
from mirnet_torch.scenes.sources import LAYOUTS  # noqa: E402

MISSED = 3  # the exit status if a stage that may change the result changes it by more than its tolerance
EPILOG = """\
files in OUT:
  NAME_equalised.safetensors  the same network with weights that lose less in int8
  NAME.onnx                 its deployable form: static shape, equal to the network up to float rounding
  NAME_any_size.onnx        of photo: pictures of any size; mirnet_torch.enhance runs it without PyTorch
  NAME_float32.tflite, NAME_float16.tflite, NAME_int8.tflite
  model_data.h/.cpp         the int8 model for the sketch (only for --target arduino-tflm)
  golden_vectors.h/.cpp     an input and the output that the board must compute for it
  report.html, report.json  what every stage costs: parity, pictures, layers, operators, memory

examples:
  python conversion/to_tflite.py --checkpoint mcu --out build/mcu
  python conversion/to_tflite.py --checkpoint best.safetensors --calibration night_photos --out build/best
  python conversion/to_tflite.py --checkpoint best.safetensors --out build/best --sketch firmware/mirnet_nano33ble
  python conversion/to_tflite.py --checkpoint photo --size 640x480 --out build/photo
  python conversion/to_tflite.py --checkpoint MIRNet_enhance.pth --size 256x256 --target litert --out build/paper

On two cores it takes about a minute for mcu, and a quarter of an hour and 10 GB of memory for the published network at
256x256.

exit status: 0 done, every stage is within its tolerance; 1 a stage is not equal to the one before where it must be; 2
the arguments, the model or the disk do not allow the conversion; 3 the int8 model misses its tolerance; 130 after
Ctrl-C. After 1 and 3 OUT is written and the sketch unchanged, after 2 and 130 both are unchanged. The last line printed
is the verdict.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    require_extra("convert", "the conversion")
    from conversion.pipeline import convert  # after parsing: this import is slow
    from conversion.report import format_table

    done = convert(options.checkpoint, options.out, calibration=options.calibration, pairs=options.pairs,
                   size=options.size, target=options.target, sketch=options.sketch, arena_limit=options.arena_limit,
                   flash_limit=options.flash_limit, replace=options.force)
    print(format_table(done.parity))
    print()
    for sentence in done.sentences:
        print(sentence)
    print("Operators: " + ", ".join(f"{count} {name}" for name, count in done.operators.items()))
    if done.missed:
        sys.stdout.flush()  # so that the verdict is the last line where both streams go to one file
        unchanged = " The sketch was not changed." if options.sketch else ""
        print(f"error: {done.verdict}{unchanged} See {done.report_html}", file=sys.stderr)
        return 1 if done.broken else MISSED
    installed = (f" The model is in the sketch {options.sketch}: {', '.join(path.name for path in done.c_files)}."
                 if options.sketch else "")
    print(f"{done.verdict}{installed} See {done.report_html}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=program("convert", "to_tflite"),
        description="Convert a MIRNet from PyTorch to float32, float16 and int8 TFLite and to C "
        "arrays for a microcontroller, comparing every stage with the one before on real pictures. Works offline.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="FILE",
                        help="weights: .safetensors or a training checkpoint of this project, a published .pth, or the "
                             "name of a preset whose weights ship (mcu, photo)")
    parser.add_argument("--out", required=True, type=folder_path, metavar="DIR",
                        help="folder to create; it is written whole or not at all")
    parser.add_argument("--calibration", type=folder_path, metavar="DIR",
                        help="folder of pictures like those the model will be used on, dark ones and some normally "
                             "lit, at least 2, better 50 (or a folder with low/); the int8 ranges are chosen on them "
                             "(default: photographs inside scikit-image, darkened)")
    parser.add_argument("--pairs", type=folder_path, metavar="DIR",
                        help=f"folder of pairs to measure PSNR on, none of them in --calibration: {LAYOUTS} (default: "
                             "two other photographs inside scikit-image, darkened)")
    parser.add_argument("--size", type=functools.partial(parse_size, low=0), metavar="WxH",
                        help="size of the pictures, fixed in the model; all pictures are cropped to its aspect and "
                             "box-filtered (default: 160x120 for mcu and its like, 480x360 for photo, else 256x256)")
    parser.add_argument("--target", metavar="NAME",
                        help="the runtime whose contract the int8 model must keep: arduino-tflm, the TFLite Micro "
                             "library for Arduino, or litert (default: arduino-tflm for mcu and its like, else "
                             "litert)")
    parser.add_argument("--sketch", type=folder_path, metavar="DIR",
                        help="if every stage is within its tolerance, put the model into this sketch, "
                             "firmware/mirnet_nano33ble or a copy of it: all four files or none")
    parser.add_argument("--arena-limit", type=_bytes, metavar="BYTES",
                        help="refuse a model that needs a larger arena on a 32-bit board, e.g. 160k (default: the "
                             "limit of the sketch)")
    parser.add_argument("--flash-limit", type=_bytes, metavar="BYTES",
                        help="refuse an int8 model that is larger (default: the limit of the sketch)")
    parser.add_argument("--force", action="store_true", help="replace OUT if an earlier conversion made it")
    return parser


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+|\d{1,3}(?:[_,]\d{3})+)([kKmM]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes: give one such as 180000 or 180k")
    return int(re.sub("[_,]", "", match[1])) * {"": 1, "k": 1000, "m": 1000_000}[match[2].lower()]


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # so that SIGTERM cleans up as Ctrl-C does
    sys.exit(run_command(main))

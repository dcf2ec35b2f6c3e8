"""Compare two artefacts of a conversion tensor by tensor: where do they differ, and by how much?

    python conversion/compare.py best.safetensors build/best/best.onnx
    python conversion/compare.py build/best/best_float32.tflite build/best/best_int8.tflite
    python conversion/compare.py reference:build/best/best_int8.tflite micro:build/best/best_int8.tflite
"""
from __future__ import annotations

import argparse
import contextlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

if not __package__:  # run as a script: this folder's modules must not hide others of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from mirnet_torch.cli import Parser, UserError, require_extra, run_command  # noqa: E402

if TYPE_CHECKING:
    import numpy as np

    from conversion.bridge.runtimes import Stage

RUNTIMES = {"litert": "litert", "reference": "litert-reference", "micro": "tflite-micro"}
EPILOG = """\
artefacts:
  a checkpoint (.safetensors, .pt, .pth, or the name of a preset)      its deployable form in PyTorch, which is also
                                                                       compared with the network itself; take
                                                                       NAME_equalised.safetensors, whose tensors are
                                                                       those of the other artefacts
  NAME.onnx                                                            onnxruntime
  NAME.tflite, float or int8                                           LiteRT; a prefix selects the runtime:
      litert:FILE      LiteRT's default kernels (also without a prefix)
      reference:FILE   LiteRT's reference kernels
      micro:FILE       tflite-micro

Differences are B minus A; SQNR is 10 log10 of the energy of A over that of the difference. Exit status: 0 the tensors
agree within --atol, 1 they do not, 2 an artefact cannot be used.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    require_extra("convert", "comparing artefacts")
    from conversion.bridge.difference import compare, first_diverging, layerwise

    (a, network_a), (b, network_b) = _open_both(options.a, options.b)
    if a.input_shape != b.input_shape or a.output_shape != b.output_shape:
        raise UserError(f"{options.a} turns {a.input_shape} into {a.output_shape}, {options.b} turns {b.input_shape} "
                        f"into {b.output_shape}: they are not of one conversion")
    core = _picture(options.image, a)
    output = compare(a.run(core), b.run(core))
    print(f"A: {a.name}\nB: {b.name}")
    for name, stage, network in (("A", a, network_a), ("B", b, network_b)):
        if network is not None:
            print(f"{name} against the network it was made from: {compare(network.run(core), stage.run(core))}")
    print(f"output {list(a.output_shape)}: {output}")
    try:
        layers = layerwise(a, b, core)
    except NotImplementedError as error:
        print(f"only outputs can be compared: {error}")
        return 0 if output.max <= options.atol else 1
    width = max((len(layer.a) for layer in layers), default=0)
    print(f"\n{'tensor of A':{width}}  {'SQNR':>9}  {'max':>8}  {'mean':>8}  {'steps':>6}  module")
    for layer in layers:
        difference = layer.difference
        steps = f"{difference.max / layer.step:6.1f}" if layer.step else " " * 6
        sqnr = "equal" if difference.sqnr_db == math.inf else f"{difference.sqnr_db:.1f} dB"
        print(f"{layer.a:{width}}  {sqnr:>9}  {difference.max:8.2g}  {difference.mean:8.2g}  {steps}  {layer.module}")
    first = first_diverging(layers, atol=options.atol)
    if first is None and output.max <= options.atol:
        print(f"\nno tensor differs by more than {options.atol:g}")
        return 0
    if first is None:
        print(f"\nonly the output differs by more than {options.atol:g}")
    else:
        print(f"\nfirst tensor that differs by more than {options.atol:g}: {first.a} / {first.b}"
              f"{' of ' + first.module if first.module else ''}, {list(first.shape)}: {first.difference}")
        if output.max <= options.atol and (network_a or network_b):
            print("the outputs agree: the converted network has other scales of channels; compare the conversion's "
                  "NAME_equalised.safetensors")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="compare", description="Compare two artefacts of a conversion tensor by tensor on one picture.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A", help="the artefact that is the reference")
    parser.add_argument("b", metavar="B", help="the artefact made from it")
    parser.add_argument("--image", metavar="FILE",
                        help="the picture to run (default: a photograph of scikit-image, darkened)")
    parser.add_argument("--atol", type=_tolerance, default=1e-4,
                        help="largest difference that counts as equal (default: %(default)g)")
    return parser


def _tolerance(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up, such as 1e-4")


def _split(name: str) -> tuple[str, str]:
    """Split an artefact's name into the runtime of its prefix (default: litert) and the rest."""
    prefix, found, rest = name.partition(":")
    return (RUNTIMES[prefix], rest) if found and prefix in RUNTIMES else ("litert", name)


def _open_both(a: str, b: str) -> list[tuple[Stage, Stage | None]]:
    """Open two artefacts at the same size. A checkpoint is opened as its deployable form, with the network itself."""
    from conversion.bridge.runtimes import TorchStage, open_stage
    from conversion.mirnet.prepare import prepare, size_of
    from mirnet_torch.checkpoint import load_model

    parts = [_split(name) for name in (a, b)]
    files = [open_stage(path, runtime=runtime) if Path(path).suffix in (".onnx", ".tflite") else None
             for runtime, path in parts]
    shape = next((stage.input_shape for stage in files if stage is not None), (32, 32, 3))
    opened: list[tuple[Stage, Stage | None]] = []
    for stage, (_, path) in zip(files, parts):
        if stage is not None:
            opened.append((stage, None))
            continue
        model = load_model(path)
        width, height = size_of(model, shape)
        try:
            prepared = prepare(model, (width, height))
        except UserError:
            raise UserError(f"{path} cannot take pictures of {width}x{height} as the other artefact does: they are not "
                            "of one conversion") from None
        opened.append((TorchStage(prepared.network, prepared.input_shape, name="deployable form"),
                       TorchStage(prepared.original[0], prepared.input_shape, name="PyTorch",
                                  method=prepared.original[1])))
    return opened


def _picture(path: str | None, stage: Stage) -> np.ndarray:
    """Return the input (1, rows, columns, channels) of a stage for a picture, coded as the network codes it.

    The channels of its input tell the colours and the side of a cell, those of its output the kind of network: only
    compact ones return maps.
    """
    import torch.nn.functional as F

    from conversion.frames import paired_frames, with_channels
    from conversion.mirnet.prepare import nchw, nhwc
    from mirnet_torch.compact import CompactConfig, CompactMIRNet
    from mirnet_torch.files.images import camera_size, read_image

    rows, columns, channels = stage.input_shape
    colours = 3 if 3 * math.isqrt(channels // 3) ** 2 == channels else 1
    cell = math.isqrt(channels // colours)
    size = columns * cell, rows * cell
    if path is None:
        image = paired_frames(None, size=size, channels=colours).dark[0]
    else:
        image = with_channels(camera_size(read_image(path), size), colours)
    planes = nchw(image[None]) / 255
    if stage.output_shape[-1] == CompactConfig(in_channels=colours).maps:
        return nhwc(CompactMIRNet(CompactConfig(in_channels=colours, cell=cell)).to_core(planes))
    return nhwc(F.pixel_unshuffle(planes, cell))


if __name__ == "__main__":
    sys.exit(run_command(main))

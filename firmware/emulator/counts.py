"""Count the instructions that a model takes on the board's processor, operator by operator.

    python firmware/emulator/counts.py --library PATH                      the model that ships
    python firmware/emulator/counts.py --library PATH --model FILE.tflite  another one
    python firmware/emulator/counts.py --library PATH --record             keep the counts of the model that ships
    python firmware/emulator/counts.py --library PATH --fit                renew what `conversion` predicts from

PATH is a clone of the library that the sketch uses, https://github.com/tensorflow/tflite-micro-arduino-examples. It is
compiled as Arduino does (-Os) and for speed (-O2), which takes minutes the first time; QEMU runs it on a Cortex-M4. The
model runs twice, with the library's kernels and with those of the sketch; counts that are kept and fitted are those of
the library's. The input is dark noise, the outputs are compared with those of tflite-micro. This file and fit_cost.py
import `conversion`, since they measure what it predicts; nothing else in firmware/ does.
"""
from __future__ import annotations

import argparse
import json
import sys
import zlib
from pathlib import Path

import numpy as np
from cortex_m4 import COMMIT, GET_LIBRARY, LEVELS, Counted, EmulatorError, build, count

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from fit_cost import noise, renew, rows_of, write_counts  # noqa: E402

from conversion.bridge.cost import cost  # noqa: E402
from conversion.bridge.graph import Graph, read_graph  # noqa: E402
from mirnet_torch.cli import UserError, run_command  # noqa: E402

SHIPPED = ROOT / "mirnet_torch" / "weights" / "mcu_int8.tflite"
COUNTS = ROOT / "tests" / "data" / "cortex_m4_counts.json"
DARK = -100  # highest code of a dark photograph: 28 / 255


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser("counts.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", metavar="PATH", help="a clone of the Arduino library")
    parser.add_argument("--model", type=Path, default=SHIPPED, metavar="FILE", help="a .tflite; the one that ships")
    parser.add_argument("--archive", action="store_true",
                        help="link only the files that the model needs, as PlatformIO does; arduino-cli links all, and "
                        "other copies of inline functions come first")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--record", action="store_true", help=f"write the counts to {COUNTS.relative_to(ROOT)}")
    what.add_argument("--fit", action="store_true", help="count every operator of that file anew, fit, write both")
    options = parser.parse_args(arguments)
    if not options.library:
        raise UserError(f"--library is missing, the path of a clone of the Arduino library: {GET_LIBRARY} && "
                        f"git -C tflite-micro-arduino-examples checkout {COMMIT}")
    if (options.record or options.fit) and (options.model != SHIPPED or options.archive):
        raise UserError("--record and --fit keep the counts of the model that ships, linked as Arduino does: leave "
                        f"{'--archive' if options.archive else '--model'} out")
    try:
        return _run(options)
    except EmulatorError as error:
        raise UserError(str(error)) from error


def _run(options: argparse.Namespace) -> int:
    graph = read_graph(options.model)
    programs = {level: build(options.library, level, archive=options.archive, progress=_progress) for level in LEVELS}
    if options.fit:
        renew(programs, COUNTS, progress=_progress)
    model = options.model.read_bytes()
    inputs = noise(graph, highest=DARK)
    counted = {level: count(program, model, inputs) for level, program in programs.items()}
    sketch = {level: count(program, model, inputs, sketch_kernels=True) for level, program in programs.items()}
    print("\n".join(table(graph, counted, sketch)))
    print(verdict(model, graph, inputs, [*counted.values(), *sketch.values()]))
    if options.fit or options.record:
        content = json.loads(COUNTS.read_text())
        content["shipped"] = {SHIPPED.name: rows_of(graph, counted)}
        write_counts(COUNTS, content)
        print(f"written: {COUNTS.relative_to(ROOT)}")
    return 0


def _progress(text: str) -> None:
    print(text, file=sys.stderr)


def table(graph: Graph, counted: dict[str, Counted], sketch: dict[str, Counted]) -> list[str]:
    """Print counts of the library's kernels, what `cost` predicts of them, and counts of the sketch's kernels.

    There is one line for every kind of operator.
    """
    predicted = {level: cost(graph, optimisation=level) for level in counted}
    head = "".join(f"{f'-{level}':>14}{'predicted':>14}{'sketch':>14}" for level in counted)
    lines = [f"{'instructions of':24}{'calls':>6}{head}"]
    for name, calls in graph.counts().items():
        cells = "".join(f"{run.by_kind()[name]:14,}{predicted[level].by_kind()[name]:14,}"
                        f"{sketch[level].by_kind()[name]:14,}" for level, run in counted.items())
        lines.append(f"{name:24}{calls:6}{cells}")
    lines[1:] = sorted(lines[1:], key=lambda line: -int(line[30:44].replace(",", "")))
    lines.append(f"{'all operators':24}{len(graph.operators):6}" + "".join(
        f"{run.total:14,}{predicted[level].instructions:14,}{sketch[level].total:14,}"
        for level, run in counted.items()))
    lines.append(f"{'Invoke()':30}" + "".join(f"{run.invoke:14,}{'':14}{sketch[level].invoke:14,}"
                                              for level, run in counted.items()))
    first = next(iter(counted))
    lines.append(f"{'arena, bytes':30}{counted[first].arena_bytes:14,}{predicted[first].arena_bytes:14,}"
                 f"{sketch[first].arena_bytes:14,}")
    return lines


def verdict(model: bytes, graph: Graph, inputs: bytes, runs: list[Counted]) -> str:
    """Compare the outputs of all runs with those of tflite-micro.

    Raises:
        UserError: they differ.
    """
    outputs = {run.outputs for run in runs}
    if len(outputs) > 1:
        raise UserError("the outputs of the runs differ: this compiler or a kernel of the sketch is broken")
    try:
        from tflite_micro import runtime
    except ImportError:
        return "outputs not compared: pip install --pre tflite-micro"
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=64 << 20)
    offset = 0
    for i, tensor in enumerate(graph.inputs):
        values = np.frombuffer(inputs, np.int8, tensor.nbytes, offset).reshape(tensor.shape)
        interpreter.set_input(values, i)
        offset += tensor.nbytes
    interpreter.invoke()
    expected = b"".join(interpreter.get_output(i).tobytes() for i in range(len(graph.outputs)))
    (got,) = outputs
    different = np.count_nonzero(np.frombuffer(expected, np.int8) != np.frombuffer(got, np.int8))
    if different:
        raise UserError(f"{different} of {len(got)} bytes of the outputs differ from those of tflite-micro: use "
                        "operators only that compute the same on the board")
    return f"outputs: {len(got):,} bytes equal to those of tflite-micro, CRC-32 {zlib.crc32(got):08x}"


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Damage what the commands read, and give them odd options: `python tests/fuzz.py [CASES] [SEED]` (default: 20000 0).

A quarter of the cases each are checkpoints, images, run folders and options. A case passes if the command ends within
its time with a known status, and with one error as the last line if it failed. Afterwards the process must not have
taken more than 2 GB. Cases depend on the seed and their number only; --only NUMBER repeats one.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import json
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/conversion must not hide conversion/

import numpy as np  # noqa: E402
import torch  # noqa: E402
from golden import filled  # noqa: E402
from PIL import Image  # noqa: E402
from skimage import data  # noqa: E402
from small_trainings import small_options, write_data  # noqa: E402

from conversion.judge import main as judge  # noqa: E402
from conversion.to_tflite import main as convert  # noqa: E402
from mirnet_torch import MIRNet, MIRNetConfig, create_model, save_model  # noqa: E402
from mirnet_torch.cli import run_command  # noqa: E402
from mirnet_torch.enhance import main as enhance  # noqa: E402
from mirnet_torch.evaluate import main as evaluate  # noqa: E402
from mirnet_torch.files.deep_images import write_deep  # noqa: E402
from mirnet_torch.train import main as train_main  # noqa: E402
from mirnet_torch.train import train  # noqa: E402
from mirnet_torch.training.options import TrainOptions  # noqa: E402

SECONDS = 60  # for a case
MEMORY = 2 * 2 ** 30
STATUSES = (0, 1, 2, 3)
PHOTO = data.astronaut()[:40, 200:264] // 4
ODD = ["", "0", "-1", "1e9", "nan", "inf", "-inf", "1e400", "0x10", "abc", " ", "\n", "é\udcff", "9" * 400,
       "160x120", "0x0", "65535x65535", "none", "/dev/null", "/dev/full", "/proc/self/mem", ".", "..", "mcu", "paper",
       "cpu", "cuda:99", "--", "-", "%s%n", "a" * 5000]
VALUES: list[Any] = [None, True, -1, 0, 2 ** 70, float("nan"), float("inf"), "", "x", b"x", [], [[]], {}, {"a": 1},
                     (1,), torch.zeros(0), torch.full((2,), torch.nan), torch.zeros(3, dtype=torch.int64)]


class Hang(BaseException):
    """A case took too long."""


def main(arguments: list[str]) -> int:
    """Run the cases; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="?", type=int, default=20_000)
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _hang)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        kinds = [checkpoints(Path(name, "checkpoints")), images(Path(name, "images")), runs(Path(name, "runs")),
                 odd_options(Path(name, "options"))]
        start = time.monotonic()
        for number in range(options.cases) if options.only is None else [options.only]:
            random = np.random.default_rng([options.seed, number])
            command, words = kinds[number % len(kinds)](random)
            if fault := fault_of_case(command, words):
                failed += 1
                print(f"case {number}: {command.__module__} {words}\n{fault}", flush=True)
        seconds = time.monotonic() - start
    status = Path("/proc/self/status").read_text()  # getrusage counts what the process had before exec, too
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print(f"{options.cases} cases, {failed} failed, {seconds:.0f} s, {peak / 2 ** 30:.2f} GB at most")
    return 1 if failed or peak > MEMORY else 0


def _hang(*_: Any) -> None:
    raise Hang


def fault_of_case(command: Callable[[list[str]], Any], words: list[str]) -> str:
    """Run a command in this process; return what is wrong with how it ended, or ""."""
    out, err = io.StringIO(), io.StringIO()
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run_command(lambda: command(words))
    except SystemExit as stop:
        status = stop.code
    except Hang:
        return f"no end within {SECONDS} s"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:500]}"
    finally:
        signal.alarm(0)
    text = err.getvalue()
    if status not in STATUSES:
        return f"status {status!r}"
    if "Traceback" in text or "Warning" in text:
        return text[-800:]
    lines = text.rstrip().splitlines()  # argparse repeats the line break of an argument
    if status == 2 and ["error: " in line for line in lines] != [False] * (len(lines) - 1) + [True]:
        return f"not one error in the last line: {text[-800:]!r}"
    return ""


def damaged(whole: bytes, random: np.random.Generator) -> bytes:
    """Flip, cut, repeat, insert or overwrite some bytes; most in the first 400, where formats keep their numbers."""
    content = bytearray(whole)
    for _ in range(random.integers(1, 5)):
        limit = min(len(content), 400) if random.random() < 0.7 else len(content)
        place = int(random.integers(max(limit, 1)))
        match random.integers(6):
            case 0:
                content[place:place + 1] = bytes([random.integers(256)])
            case 1:
                del content[place:len(content) if random.random() < 0.3 else place + int(random.integers(64))]
            case 2:
                content[place:place] = content[place:place + int(random.integers(64))]
            case 3:
                content[place:place] = random.bytes(int(random.integers(64)))
            case 4:
                number = int(random.choice([0, 1, 255, 65535, 2 ** 31 - 1, 2 ** 32 - 1]))
                content[place:place + 4] = struct.pack("<I" if random.random() < 0.5 else ">I", number)
            case _:
                content[place:place + 8] = bytes(8)
    return bytes(content)


def checkpoints(folder: Path) -> Callable[[np.random.Generator], tuple[Callable[..., Any], list[str]]]:
    """Return cases of weights: damaged files, and whole files of odd content."""
    folder.mkdir()
    Image.fromarray(PHOTO[:8, :8]).save(folder / "a.png")
    network = filled(MIRNet(MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1)))
    save_model(network, folder / "a.safetensors")
    save_model(filled(create_model("mcu")), folder / "b.safetensors")
    torch.save({"state_dict": network.state_dict()}, folder / "c.pth")
    torch.save(network.state_dict(), folder / "d.pth", _use_new_zipfile_serialization=False)
    wholes = [(path.suffix, path.read_bytes()) for path in sorted(folder.glob("*.[sp]*")) if path.name != "a.png"]
    rows = network.state_dict()

    def case(random: np.random.Generator) -> tuple[Callable[..., Any], list[str]]:
        suffix, whole = wholes[random.integers(len(wholes))]
        path = folder / f"case{suffix}"
        if random.random() < 0.7:
            path.write_bytes(damaged(whole, random))
        elif random.random() < 0.5:  # a header that is JSON still
            size, = struct.unpack("<Q", wholes[0][1][:8])
            header = altered(json.loads(wholes[0][1][8:8 + size]), random)
            text = json.dumps(header, default=str).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text + wholes[0][1][8 + size:])
        else:
            torch.save(altered({"config": network.config.to_dict(), "state_dict": dict(rows)}, random), path)
        return enhance, [str(folder / "a.png"), "--out", str(folder / "out"), "--overwrite", "--checkpoint", str(path)]
    return case


def altered(content: Any, random: np.random.Generator) -> Any:
    """Return nested dictionaries with one entry removed, renamed or replaced by an odd value."""
    if not isinstance(content, dict) or not content or random.random() < 0.05:
        return VALUES[random.integers(len(VALUES))]
    key = list(content)[random.integers(len(content))]
    kept = dict(content)
    if random.random() < 0.15:
        kept[f"{key}x"] = kept.pop(key)
    elif random.random() < 0.15:
        del kept[key]
    else:
        kept[key] = altered(kept[key], random)
    return kept


def images(folder: Path) -> Callable[[np.random.Generator], tuple[Callable[..., Any], list[str]]]:
    """Return cases of images in all formats that are written here."""
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    picture, rich = Image.fromarray(PHOTO), {"exif": exif, "icc_profile": bytes(200), "dpi": (300, 300), "xmp": b"<x/>"}
    for name, options in (("a.png", rich), ("b.jpg", rich), ("c.webp", rich | {"lossless": True}), ("d.bmp", {}),
                          ("e.tif", {"dpi": (300, 300)}), ("f.tif", {"compression": "tiff_lzw"}),
                          ("g.webp", {"quality": 50}), ("h.jpg", {"progressive": True, "comment": b"c"})):
        picture.save(folder / name, **options)
    picture.quantize(16).save(folder / "i.png", transparency=bytes(16))
    Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257).save(folder / "j.png")
    write_deep(PHOTO.astype(np.uint16) * 257, folder / "k.png", exif=exif.tobytes(), dpi=(72, 72))
    with contextlib.suppress(Exception):  # only with their extras
        write_deep(PHOTO.astype(np.uint16) * 257, folder / "l.tif")
        import pillow_heif
        pillow_heif.register_heif_opener()
        picture.save(folder / "m.heic", format="HEIF", exif=exif.tobytes())
        from test_photograph_files import mosaic_of, write_dng
        write_dng(folder / "n.dng", mosaic_of(PHOTO.astype(np.uint16) * 200))
    wholes = [(path.suffix, path.read_bytes()) for path in sorted(folder.iterdir())]

    def case(random: np.random.Generator) -> tuple[Callable[..., Any], list[str]]:
        suffix, whole = wholes[random.integers(len(wholes))]
        if random.random() < 0.03:
            suffix = wholes[random.integers(len(wholes))][0]
        path = folder / f"case{suffix}"
        path.write_bytes(damaged(whole, random))
        words = [str(path), "--out", str(folder / "out"), "--overwrite"]
        if random.random() < 0.3:
            words += ["--format", str(random.choice(["jpg", "png", "webp", "tiff"]))]
        return enhance, words + (["--compare"] if random.random() < 0.2 else [])
    return case


def runs(folder: Path) -> Callable[[np.random.Generator], tuple[Callable[..., Any], list[str]]]:
    """Return cases of run folders: a finished training whose files are damaged or of odd content."""
    folder.mkdir()
    write_data(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        train(TrainOptions(**{**small_options(folder), "epochs": 1}, out=folder / "run"))
    last, best = folder / "run" / "last.pt", folder / "run" / "best.safetensors"
    whole, whole_best = last.read_bytes(), best.read_bytes()
    state = torch.load(last, weights_only=True)

    def case(random: np.random.Generator) -> tuple[Callable[..., Any], list[str]]:
        for path in (folder / "run").glob("events*"):
            path.unlink()
        best.write_bytes(damaged(whole_best, random) if random.random() < 0.1 else whole_best)
        if random.random() < 0.4:
            last.write_bytes(damaged(whole, random))
        else:
            torch.save(altered(state, random), last)
        return train_main, ["--resume", str(folder / "run")]
    return case


def odd_options(folder: Path) -> Callable[[np.random.Generator], tuple[Callable[..., Any], list[str]]]:
    """Return cases of options, known and unknown, with odd values. None names data, so that nothing long begins."""
    folder.mkdir()
    Image.fromarray(PHOTO[:8, :8]).save(folder / "a.png")
    names = {enhance: ["--exposure", "--strength", "--quality", "--format", "--tile", "--overlap", "--device",
                       "--frames", "--compare", "--checkpoint", "--skip-existing", "--overwrite", "--failed", "--out"],
             evaluate: ["--size", "--split", "--tile", "--overlap", "--device", "--checkpoint"],
             train_main: ["--lr", "--epochs", "--batch", "--patch", "--preset", "--config", "--init", "--seed", "--ema",
                          "--betas", "--workers", "--device", "--mixup-from", "--val-size", "--resume"],
             convert: ["--size", "--target", "--arena-limit", "--flash-limit", "--calibration", "--pairs", "--sketch"],
             judge: ["--checkpoint", "--model", "--nights"]}
    always = {enhance: [str(folder / "a.png"), "--out", str(folder / "out")],
              evaluate: ["--data", str(folder / "none")], train_main: ["--data", str(folder / "none")],
              convert: ["--checkpoint", str(folder / "none.pth"), "--out", str(folder / "converted")],
              judge: ["--data", str(folder / "none")]}
    commands = list(names)

    def case(random: np.random.Generator) -> tuple[Callable[..., Any], list[str]]:
        command = commands[random.integers(len(commands))]
        words = list(always[command])
        for _ in range(random.integers(1, 4)):
            name = str(random.choice(names[command]))
            value = ODD[random.integers(len(ODD))]
            if name in ("--failed", "--out"):
                value = str(folder / ("out" if random.random() < 0.5 else "list.tsv"))
            words += [name, value] if random.random() < 0.9 else [f"{name}={value}"]
        return command, words
    return case


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What all commands share: errors in one line, files written whole or not at all, progress bars, choice of device."""
from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import importlib.util
import io
import os
import platform
import re
import secrets
import signal
import sys
import warnings
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, NoReturn

from tqdm import tqdm

if TYPE_CHECKING:
    import torch

Size = tuple[int, int]  # (width, height)
FULL = (errno.ENOSPC, errno.EDQUOT)
LARGEST_SIDE = 65535  # pixels
LARGEST_EXPOSURE = 4.0  # EV, up or down
BOOT_ID = "/proc/sys/kernel/random/boot_id"  # of Linux: another one after every start
LARGEST_SHARE = 1000  # of a folder, in "DIR:SHARE"
# The modules that the extras of setup.cfg install, by the names they are imported with.
EXTRAS = {
    "train": ("skimage.data", "torchvision", "tensorboard"),
    "convert": ("skimage.data", "torchvision", "onnx", "onnxsim", "onnx2tf", "tensorflow", "onnxruntime",
                "ai_edge_litert", "tflite_micro", "jinja2"),
    "video": ("av",),
    "heic": ("pillow_heif",),
    "raw": ("rawpy",),
    "onnx": ("onnxruntime",),
    "litert": ("ai_edge_litert",),
}


def machine() -> str:
    """Return a name, at most 24 letters and digits, of the machine since it started, and of the container on it.

    Within it a number names one process. Host names may be equal, so only their beginning is shown, and a hash tells
    the rest.
    """
    facts = [platform.node()]
    with contextlib.suppress(OSError):
        facts.append(Path(BOOT_ID).read_text())
    with contextlib.suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))
    digits = hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()
    return re.sub("[^A-Za-z0-9]", "", platform.node())[:16] + digits[:8]


# In temporary names: the machine, since several may write into one folder, and the process.
_OWNER = machine() + "p{}"


class UserError(Exception):
    """Something the user can fix; the message is one line that names the cause and the fix."""


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command and return its exit status, any expected failure as one line on standard error.

    The status is that of `main` (None is 0), 2 for a `UserError` or an operating system's error, 130 after Ctrl-C.
    """
    _prepare_process()
    try:
        status = main() or 0
        sys.stdout.flush()  # a closed pipe or a full disk shows here
        return status
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        _drop_output()
        return 0
    except Exception as error:
        fault = fault_of(error)
        if fault is None:
            raise
        message = fault
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
    say(f"error: {' '.join(message.splitlines())}")  # names and causes may hold line breaks
    return 2


def say(text: str) -> None:
    """Print a line on standard error, unless that is gone with its terminal."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _prepare_process() -> None:
    """Give a command its streams, names of any bytes, Ctrl-C, and silence from Pillow."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set by our __init__
        signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.filterwarnings("ignore", module=r"PIL\b")  # about large pictures and odd metadata; faults are exceptions
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # a closed stream: a file must not take its number
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that the locale cannot write


def fault_of(error: BaseException) -> str | None:
    """Return the line that tells the user of an expected failure: cause and fix. None for a defect of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        fix = "; free some space and run it again" if error.errno in FULL else ""
        return f"{error.filename or 'output'}: {error.strerror or error}{fix}"
    if isinstance(error, ImportError):
        return (f"{' '.join(str(error).split())}: the installation of {error.name or 'a package'} is damaged or not "
                "complete; install it again")
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and re.search(
            "out of memory|allocate memory", str(error)):
        return "out of memory; use a smaller batch, smaller patches or --tile"
    return None


def _drop_output() -> None:
    """Discard what could not be written to standard output, so that Python does not try again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def require_extra(extra: str, purpose: str) -> None:
    """Check that the packages of an extra of setup.cfg are there, without importing them.

    Args:
        extra: a key of `EXTRAS`.
        purpose: what needs them; it starts the message.

    Raises:
        UserError: one is missing; the message names it and the command that installs the extra.
    """
    for name in EXTRAS[extra]:
        try:
            found = importlib.util.find_spec(name)
        except ImportError:  # of the package around a submodule
            found = None
        if found is None:
            raise UserError(f"{purpose} needs the package {name.partition('.')[0]}: {install_command(extra)}")


def install_command(extra: str) -> str:
    """Return the command that installs an extra; pip takes an installed package's extras from its own metadata."""
    try:
        distribution("mirnet-torch")
        return f'pip install "mirnet-torch[{extra}]"'
    except PackageNotFoundError:  # run from a clone that is not installed
        return f'pip install -e "{Path(__file__).resolve().parent.parent}[{extra}]"'


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it at the end, or is removed after any exception.

    The temporary name keeps the suffix, since many writers choose their format by it. `path` is never half written, not
    even after a crash or on a full disk: the data are flushed to disk before the file gets its name.

    Raises:
        UserError: the folder of `path` does not exist or cannot be written.
    """
    path = Path(path)
    name = f".{path.stem[:40]}-{_OWNER.format(os.getpid())}-{secrets.token_hex(4)}{path.suffix}"
    temporary = path.parent / name
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # the system applies the umask
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:  # a full disk has no name, and the temporary one tells nothing
        if error.filename in (None, os.fspath(temporary)):
            error.filename, error.filename2 = os.fspath(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Return whether a file name is that of a temporary file of `atomic_path` whose process has died here.

    Here is the machine since it last started: of older files nobody can tell whether another machine writes them.
    """
    match = re.fullmatch(rf"\..*-{_OWNER.format('([0-9]+)')}-[a-z0-9_]{{8}}(\.[^.]*)?", name, re.DOTALL)
    if match is None:
        return False
    try:
        os.kill(int(match[1]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it lives, and is another user's
        pass
    return False


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder and its parents unless they exist, and return it.

    Raises:
        UserError: it cannot be created or written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"cannot write into the folder {path}: give another one")
    return path


def refuse_existing(folder: Path, names: Iterable[str]) -> None:
    """Raise a UserError if a folder holds a file of one of the names."""
    existing = [name for name in names if os.path.lexists(folder / name)]
    if existing:
        raise UserError(f"{folder} holds {', '.join(existing)} already: give --overwrite or another --out")


def progress(items: Any = None, **options: Any) -> tqdm:
    """Return a tqdm progress bar. It shows nothing where standard error is not a terminal."""
    return tqdm(items, disable=not sys.stderr.isatty(), dynamic_ncols=True, **options)


def folder_path(text: str) -> Path:
    """Read the name of a folder; an `argparse` type. An empty one, of an unset variable, would be the current folder.

    Raises:
        argparse.ArgumentTypeError: the text is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; for the current folder give .")
    return Path(text)


def program(name: str, otherwise: str) -> str:
    """Return a command as the user called it: "mirnet NAME", or as it is called without the command `mirnet`."""
    return f"mirnet {name}" if os.path.basename(sys.argv[0]) == "mirnet" else otherwise


def split_share(given: str | os.PathLike[str]) -> tuple[Path, int]:
    """Split "DIR:SHARE" or "DIR" into folder and share.

    Raises:
        UserError: the share is out of its range.
    """
    name, colon, share = os.fspath(given).rpartition(":")
    if not colon or not share.isdecimal():
        return Path(given), 1
    if not 1 <= int(share) <= LARGEST_SHARE:
        raise UserError(f"{given}: a share must be a whole number from 1 to {LARGEST_SHARE}, not {share}")
    return Path(name), int(share)


def parse_size(text: str, *, low: int = 1) -> Size:
    """Read "160x120" as (160, 120), sides from `low` to `LARGEST_SIDE`; an `argparse` type.

    Raises:
        argparse.ArgumentTypeError: the text is not such a size.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)
    if match is None or not all(low <= int(side) <= LARGEST_SIDE for side in match.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 160x120 (width x height in pixels)")
    return int(match[1]), int(match[2])


def pick_device(name: str) -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1" or "mps" into a device that exists.

    Raises:
        UserError: there is no device of that name on this machine.
    """
    import torch  # here: running a converted network needs no PyTorch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"no device {name!r} here; use --device cpu or auto") from error
    return device


class Parser(argparse.ArgumentParser):
    """A parser whose error is one line, also where an argument has line breaks.

    Before Python 3.13 `--option=--` gave an option an empty list; here it is an error.
    """

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options = super().parse_args(args, namespace)
        for action in self._actions:
            if action.nargs is None and action.default != [] and getattr(options, action.dest, None) == []:
                self.error(f"argument {'/'.join(action.option_strings)}: expected one argument")
        return options

    def error(self, message: str) -> NoReturn:
        super().error(" ".join(message.split()))


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add `--device` to a command's options; its value goes to `pick_device`."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, mps, or auto: the first of cuda, mps, cpu "
                                                         "that is there (default: %(default)s)")

"""The options of training: one dataclass, whose fields are the options of the command.

The text under a field is its `--help`, where LAYOUTS stands for `scenes.sources.LAYOUTS`; `Range` in its
annotation is the closed range of its values.
"""
from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Sequence, get_args, get_origin, get_type_hints

from mirnet_torch.cli import Parser, Size, UserError, folder_path, parse_size, program, split_share
from mirnet_torch.presets import PRESETS
from mirnet_torch.scenes.sources import LAYOUTS


class Range(NamedTuple):
    """The closed range of a number, or of all numbers of a tuple."""

    low: float
    high: float


Count = Annotated[int, Range(1, 10 ** 9)]
Side = Range(1, 65535)  # pixels
WINDOW = 7  # pixels along the side of the windows in which --structure compares


@dataclass(frozen=True)
class TrainOptions:
    """The options of a training run. The defaults are the paper's recipe; `for_preset` gives those of other networks.

    Raises:
        UserError: a value is out of its range, or two contradict each other.
    """

    data: Path | tuple[str, ...] | None = None
    """folder of pairs: LAYOUTS; or of photographs, which are darkened by a camera model; or of panoramas (.hdr), of
    which views are exposed twice. Given more than once, as DIR or DIR:SHARE, folders are mixed in these shares.
    Without it: photographs inside scikit-image"""
    low: Path | None = None
    """pairs in two folders anywhere, besides or instead of --data: the dark images, ..."""
    high: Path | None = None
    """... and the bright ones, of the same names up to the suffix; every tenth pair is held out for validation"""
    out: Path | None = None
    """run folder to create (default: runs/PRESET)"""
    preset: str = "paper"
    """network, and the defaults of all options"""
    config: Path | None = None
    """JSON file that describes the network, instead of the preset's: the fields of MIRNetConfig, or
    "network": "compact" or "photo" and those of CompactConfig or PhotoConfig"""
    init: str | Path | None = None
    """first weights: a file, or a preset's that ship; for photo also those of its colours: mcu; none: untrained"""
    freeze: tuple[str, ...] = ()
    """parameters that are not trained: names of parameters or modules, with * and ? as in a shell; "detail" is
    what removes noise in photo, and the rest of it sets light and colours. May be given more than once"""
    seed: Annotated[int, Range(0, 2 ** 63 - 1)] = 0
    """seed of all random numbers"""

    epochs: Count = 200
    """passes over the training pairs. With --resume a larger number lengthens the training: from there on the learning
    rate is that of a training of the new length"""
    batch: Annotated[int, Range(1, 65536)] = 16
    """patches per process and step, or per part of a step with --accumulate"""
    accumulate: Annotated[int, Range(1, 65536)] = 1
    """parts of a step whose gradients are summed: the result is that of a --batch so many times larger, in the memory
    of this one"""
    patch: Annotated[Size, Side] = (128, 128)
    """size of the patches, WIDTHxHEIGHT or one number"""
    flips: bool = True
    """flip patches left-right and upside down"""
    rotations: bool = True
    """turn patches by quarter turns"""
    scales: bool = False
    """cut patches at all scales, from single pixels up to the whole image, and resize them to --patch"""
    jitter: bool = False
    """vary exposure, white balance and noise of every other dark patch, and put half of these into the format of a
    board's camera: YUV 4:2:2, or RGB565 with --rgb565 alone"""
    yuv422: Annotated[float, Range(0, 1)] = 0.0
    """share of dark patches, besides those that jitter chooses, that become YUV 4:2:2: two pixels share their chroma"""
    rgb565: Annotated[float, Range(0, 1)] = 0.0
    """the same for RGB565, which keeps 5 or 6 bits"""
    jpeg: Annotated[float, Range(0, 1)] = 0.0
    """share of dark patches that are compressed as JPEG"""
    pixel_noise: bool = False
    """noise of the camera model as single pixels of a photograph have it, without the format of a board's camera"""
    blend: Annotated[float, Range(0, 1)] = 0.0
    """share of dark patches that are blended with their truths, in any proportion, so that the network changes a
    picture little that is nearly right"""
    relight: bool = False
    """make every tenth dark patch from its bright partner: half of these normally lit, so that the network learns not
    to change such images, half in less light"""
    relight_from: Annotated[float, Range(1e-3, 1)] = 0.02
    """the least light for --relight, relative to the bright partner"""
    mixup_alpha: Annotated[float, Range(0, 1e3)] = 1.2
    """A of Beta(A, A), from which MixUp draws the weights of blended pairs; 0: no MixUp"""
    mixup_from: Count = 6
    """first epoch with MixUp"""

    lr: Annotated[float, Range(1e-12, 1e3)] = 2e-4
    """highest learning rate (Adam)"""
    lr_min: Annotated[float, Range(0, 1e3)] = 1e-6
    """learning rate at the end of the cosine"""
    warmup_epochs: Annotated[int, Range(0, 10 ** 9)] = 3
    """epochs of linear warm-up; at most half of all epochs are used for it"""
    betas: Annotated[tuple[float, float], Range(0, 1 - 1e-9)] = (0.9, 0.999)
    """Adam's decay rates"""
    weight_decay: Annotated[float, Range(0, 1e3)] = 1e-8
    """Adam's weight decay"""
    charbonnier_eps: Annotated[float, Range(1e-9, 1e3)] = 1e-3
    """epsilon of the Charbonnier loss, mean of sqrt(difference^2 + epsilon^2)"""
    brightness: Annotated[float, Range(0, 1)] = 1.0
    """weight, 0 to 1, of the loss on unchanged outputs; the rest is the weight of the loss on outputs that are first
    scaled to the brightness of the truth"""
    structure: Annotated[float, Range(0, 1e3)] = 0.0
    """weight of 1 - SSIM in the loss, at the brightness of the truth; keeps edges and textures"""
    clip: Annotated[float, Range(0, 1e9)] = 1.0
    """clip the gradient to this norm; 0: do not clip"""
    ema: Annotated[float, Range(0, 1 - 1e-9)] = 0.999
    """decay of the averaged weights per step; 0: no averaging"""

    val_size: Annotated[Size | None, Side] = None
    """validate on images cropped and box-filtered to WIDTHxHEIGHT, or 'full'"""
    validate_every: Count = 1
    """epochs from one validation to the next"""
    checkpoint_minutes: Annotated[float, Range(0, 1e6)] = 10.0
    """minutes between checkpoints within an epoch"""
    device: str = "auto"
    """cpu, cuda, cuda:N, mps, or auto: the first of cuda, mps, cpu that is there"""
    bf16: bool = True
    """compute in bfloat16 on CUDA devices that support it"""
    bf16_on_cpu: bool = False
    """the same on processors that support it; results depend on the kind of processor"""
    channels_last: bool = True
    """keep the channels innermost in memory, which is faster"""
    compile: bool = False
    """compile the network first (torch.compile)"""
    checkpoint_activations: bool = False
    """keep only the inputs of the network's blocks and compute the rest again for the gradient: less memory, more time,
    the same result"""
    workers: Annotated[int | None, Range(0, 256)] = None
    """processes that load data (default: 0 on the CPU, else up to 8)"""

    def __post_init__(self) -> None:
        data = self.data
        if isinstance(data, (tuple, list)):  # one folder without a share is kept as a path, as if given by itself
            data = tuple(map(os.fspath, data))
            data = Path(data[0]) if len(data) == 1 and split_share(data[0])[0] == Path(data[0]) else data
        object.__setattr__(self, "data", data if data is None or isinstance(data, tuple) else Path(data))
        for name in ("out", "config", "low", "high"):
            path = getattr(self, name)
            object.__setattr__(self, name, None if path is None else Path(path))
        object.__setattr__(self, "init", None if self.init is None else os.fspath(self.init))
        object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "freeze", (self.freeze,) if isinstance(self.freeze, str) else tuple(self.freeze))
        check(self)

    @property
    def sources(self) -> tuple[str | Path, ...]:
        """The folders of --data, each with its share if it has one."""
        return self.data if isinstance(self.data, tuple) else () if self.data is None else (self.data,)

    @property
    def patches(self) -> int:
        """Patches per process and step."""
        return self.batch * self.accumulate

    @classmethod
    def for_preset(cls, name: str, **changes: Any) -> TrainOptions:
        """Return the recipe of a preset, with changes.

        Raises:
            UserError: there is no such preset, or a value is out of its range.
        """
        return cls(**{"preset": name, **RECIPES.get(name, {}), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values with absolute paths; `TrainOptions(**fields)` is the inverse."""
        return plain_values(self)


# How the recipe of a preset differs from the paper's.
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    # Whole camera frames and parts of them; a small network needs a larger learning rate, smaller batches, many epochs.
    "mcu": {"batch": 8, "patch": (160, 120), "scales": True, "jitter": True, "rgb565": 0.4, "blend": 0.1,
            "relight": True, "mixup_alpha": 0.0, "brightness": 0.3, "epochs": 400, "lr": 2e-3, "val_size": (160, 120),
            "validate_every": 10},
    # Photographs at their own pixels: patches that are not resized, with the noise of single pixels.
    "photo": {"init": "mcu", "batch": 4, "patch": (192, 192), "jitter": True, "pixel_noise": True, "jpeg": 0.3,
              "blend": 0.1, "relight": True, "mixup_alpha": 0.0, "brightness": 0.3, "structure": 0.2, "epochs": 120,
              "lr": 1e-3, "validate_every": 5, "bf16_on_cpu": True},
}
# Options that may change when a run is resumed, because the result does not depend on them, up to rounding.
FREE = ("data", "low", "high", "checkpoint_minutes", "workers", "device", "checkpoint_activations")


def check(options: TrainOptions) -> None:
    """Raise a UserError that names the option unless every value is in its range and none contradicts another."""
    if options.preset not in PRESETS:
        raise UserError(f"--preset must be one of {', '.join(PRESETS)}, not {options.preset}")
    hints, types = get_type_hints(TrainOptions, include_extras=True), get_type_hints(TrainOptions)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if get_origin(hints[field.name]) is Annotated and not (value is None and field.default is None):
            low, high = hints[field.name].__metadata__[0]
            for number in value if isinstance(value, tuple) else [value]:
                if not isinstance(number, (int, float)) or not low <= number <= high:
                    raise UserError(f"{flag(field.name)} must be from {low} to {high}, not {shown(field.name, number)}")
        if not _fits(value, types[field.name]):
            raise UserError(f"{flag(field.name)} cannot be {' '.join(repr(value).split())[:100]}")
    if options.yuv422 + options.rgb565 > 1:
        raise UserError(f"--yuv422 ({options.yuv422}) and --rgb565 ({options.rgb565}) must not be above 1 together")
    if (options.low is None) != (options.high is None):
        raise UserError("--low and --high belong together, the dark and the bright images: give both")
    if options.structure and min(options.patch) < WINDOW:
        raise UserError(f"--structure compares windows of {WINDOW}x{WINDOW} pixels: give a larger --patch than "
                        f"{shown('patch', options.patch)}")
    if options.lr_min > options.lr:
        raise UserError(f"--lr-min ({options.lr_min}) must not be above --lr ({options.lr})")


def plain_values(options: TrainOptions) -> dict[str, Any]:
    """Return all options by name as plain values; paths are absolute."""
    values = {name: str(value.resolve()) if isinstance(value, Path) else value
              for name, value in vars(options).items()}
    if isinstance(options.data, tuple):
        values["data"] = tuple(absolute(folder) for folder in options.data)
    if options.init is not None and options.init not in (*PRESETS, "none"):
        values["init"] = str(Path(options.init).resolve())
    return values


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value is of the type of a field: a class, a union or a tuple. A bool is no number."""
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple) or Ellipsis not in parts and len(value) != len(parts):
            return False
        return all(_fits(each, parts[0]) for each in value)  # all parts of our tuples are of one type
    if parts:
        return any(_fits(value, part) for part in parts)
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind)


def parse_arguments(arguments: Sequence[str] | None, description: str) -> dict[str, Any]:
    """Return the given options by field name, and the run folder of --resume, if given, as "resume"."""
    parser = Parser(
        prog=program("train", "python -m mirnet_torch.train"), description=description,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 when finished, 2 after an error; 130, 143, 129 after Ctrl-C, SIGTERM, SIGHUP, which "
               "leave a checkpoint to resume from.")
    parser.add_argument("--resume", type=folder_path, metavar="RUN",
                        help="resume the training in this run folder, with the options stored there")
    add_arguments(parser)
    return vars(parser.parse_args(arguments))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every option; its help is the text under the field and the defaults."""
    types, texts = get_type_hints(TrainOptions), field_texts(TrainOptions)
    for field in dataclasses.fields(TrainOptions):
        arguments = get_args(types[field.name])
        kind = arguments[0] if type(None) in arguments else types[field.name]
        if field.name == "data":
            form: dict[str, Any] = {"action": "append", "metavar": "DIR[:SHARE]"}
        elif field.name == "freeze":
            form = {"action": "append", "metavar": "PATTERN"}
        elif kind is bool:
            form = {"action": argparse.BooleanOptionalAction}
        elif kind == Size:
            form = {"type": _size, "metavar": "SIZE"}
        elif get_origin(kind) is tuple:
            form = {"type": arguments[0], "nargs": len(arguments), "metavar": ("N",) * len(arguments)}
        elif field.name == "preset":
            form = {"choices": tuple(PRESETS)}
        else:
            form = {"type": folder_path if kind is Path else kind,
                    "metavar": {Path: "PATH", str: "NAME"}.get(kind, "N")}
        defaults = [shown(field.name, field.default)] if field.default not in (None, ()) or kind == Size else []
        defaults += [f"{preset}: {shown(field.name, recipe[field.name])}" for preset, recipe in RECIPES.items()
                     if field.name in recipe]
        default = f" (default: {'; '.join(defaults)})" if defaults else ""
        parser.add_argument(flag(field.name), help=texts[field.name] + default, **form)


def absolute(folder: str) -> str:
    """Return "DIR:SHARE" with DIR absolute."""
    path, share = split_share(folder)
    return f"{path.resolve()}:{share}"


def command_line(options: TrainOptions) -> str:
    """Return the command that gives these options."""
    recipe = TrainOptions.for_preset(options.preset)
    words = ["python", "-m", "mirnet_torch.train", "--preset", options.preset]
    for name, value in vars(options).items():
        if value == getattr(recipe, name):
            continue
        if name in ("data", "freeze") and isinstance(value, tuple):
            words += [word for each in value for word in (flag(name), each)]
        elif isinstance(value, bool):
            words.append(flag(name if value else f"no_{name}"))
        else:
            text = "none" if name == "init" and value is None else shown(name, value)
            words += [flag(name), *(text.split(" ") if isinstance(value, tuple) else [text])]
    return shlex.join(words)


def field_texts(options: type) -> dict[str, str]:
    """Return the text under every field of a dataclass, each as one line."""
    (definition,) = ast.parse(inspect.getsource(options)).body
    assert isinstance(definition, ast.ClassDef)
    return {field.target.id: " ".join(text.value.value.replace("LAYOUTS", LAYOUTS).split())
            for field, text in zip(definition.body, definition.body[1:])
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)}


def flag(name: str) -> str:
    """Return the flag of a field: "lr_min" becomes "--lr-min"."""
    return f"--{name.replace('_', '-')}"


def shown(name: str, value: Any) -> str:
    """Return an option's value as a user types or reads it."""
    if value is None:
        return "full" if name in ("patch", "val_size") else "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ("x" if name in ("patch", "val_size") else " ").join(str(part) for part in value)
    return str(value)


def _size(text: str) -> Size | None:
    """Read "160x120" as (160, 120), "128" as (128, 128), "full" as None; `check` refuses sizes out of range."""
    if text == "full":
        return None
    return parse_size(f"{text}x{text}" if text.isdecimal() else text.lower(), low=0)

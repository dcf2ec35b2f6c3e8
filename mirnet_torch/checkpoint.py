"""Load and save weights: this project's `.safetensors`, training checkpoints, and checkpoints in the published format.

Loading never executes code from a file: pickles are read with `weights_only=True`. All rows are compared with the
network before any is used; one error names those that do not fit. Rows that share storage (see `alias_rows`) are
stored once in `.safetensors` and may be equal copies in a pickle.
"""
from __future__ import annotations

import json
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mirnet_torch.cli import UserError, atomic_path
from mirnet_torch.model import MIRNetConfig
from mirnet_torch.presets import PRESETS, Config, Network, config_from_dict, create_model

WEIGHTS = Path(__file__).parent / "weights"  # weights that ship with the package: {preset}.safetensors
FORMAT = "mirnet_torch"  # the metadata key of this project's .safetensors
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel and torch.compile


class CheckpointError(UserError):
    """A file cannot be used as weights; the message names the file, and the rows or the cause."""


def load_model(path_or_preset: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Network:
    """Load a network with its weights, ready to use (eval mode, float32).

    Args:
        path_or_preset: the name of a preset whose weights ship ("photo", "mcu"), or a file: this project's
            `.safetensors` or training checkpoint (whose averaged weights are taken), or a published-format checkpoint
            (a state dict or {"state_dict": ...}, with or without `module.` prefixes). If the file has no
            configuration, it is inferred from the shapes.
        device: where the network goes.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, or would run code; rows are missing,
            unexpected, of wrong shape, not finite, or differ although the network shares them.
    """
    path = weights_file(path_or_preset)
    try:
        model = _load(path)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # values of odd types and tensors of odd kinds fail in many ways
        cause = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} cannot be used as weights: {cause} ({type(error).__name__})") from error
    return model.to(device).eval()


def _load(path: Path) -> Network:
    config, rows, stored_once = _read(path)
    if isinstance(config, MIRNetConfig) and (streams := config.n_RRG * config.n_MSRB * config.height) > len(rows):
        # A damaged file may name a huge network; building it would take minutes, even on the meta device.
        raise CheckpointError(f"{path}: {len(rows)} rows are too few for the {streams} streams of its configuration")
    with torch.device("meta"):  # takes no memory, whatever size the file claims
        shared_first = alias_rows(create_model(config))
        shapes = {name: tuple(row.shape) for name, row in create_model(config).state_dict().items()}
    if stored_once:
        rows = {name: rows[source] for name, source in shared_first.items() if source in rows} | rows
    _check_rows(path, rows, shapes, shared_first)
    model = create_model(config)
    model.load_state_dict(rows)
    return model


def save_model(model: Network, path: str | os.PathLike[str], *, notes: Mapping[str, Any] | None = None) -> None:
    """Write weights and configuration as one `.safetensors` file, whole or not at all.

    The bytes depend only on the weights, the configuration and the notes.

    Args:
        model: the network to save.
        path: the file to write, ending in `.safetensors`; an existing one is replaced.
        notes: JSON values to store with the configuration (data, command, scores); `load_notes` reads them.

    Raises:
        UserError: the path does not end in `.safetensors`, its folder does not exist or cannot be written, or the
            disk is full.
    """
    if Path(path).suffix != ".safetensors":
        raise UserError(f"cannot save to {path}: the name must end in .safetensors")
    rows = model.state_dict()
    kept = {first: rows[first].detach().cpu().contiguous() for first in dict.fromkeys(alias_rows(model).values())}
    header = {"config": model.config.to_dict(), "notes": dict(notes or {})}
    with atomic_path(path) as temporary:  # one key of metadata: safetensors keeps no order among several
        try:
            safetensors.torch.save_file(kept, temporary, {FORMAT: json.dumps(header, sort_keys=True)})
        except safetensors.SafetensorError as error:  # also raised on a full disk
            raise UserError(f"cannot write {path}: {error}; is the disk full?") from error


def load_notes(path_or_preset: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the notes that `save_model` stored in a `.safetensors` file.

    Raises:
        CheckpointError: the file is missing, or this project did not write it.
    """
    path = weights_file(path_or_preset)
    return _header(path, _read_metadata(path) or {})["notes"]


def alias_rows(model: nn.Module) -> dict[str, str]:
    """Map every row of the state dict to the first row with the same storage (usually itself)."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(row), name) for name, row in model.state_dict(keep_vars=True).items()}


def weights_file(path_or_preset: str | os.PathLike[str]) -> Path:
    """Return the file that holds the weights of a preset, or that a path names.

    Raises:
        CheckpointError: no weights ship for the preset; or the file does not exist, or is a folder.
    """
    name = os.fspath(path_or_preset)
    if name in PRESETS:
        path = WEIGHTS / f"{name}.safetensors"
        if not path.is_file():
            raise CheckpointError(f"no trained weights ship for the preset {name!r}: give a checkpoint, or build it "
                                  f"untrained with create_model({name!r})")
        return path
    path = Path(path_or_preset)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: name the checkpoint in it")
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: give a checkpoint file or a preset ({', '.join(PRESETS)})")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a regular file: give a checkpoint file")
    return path


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a file of `torch.save` onto the CPU without executing anything in it.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    try:
        _refuse_packed(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about formats that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and _is_whole_pickle(path):
            raise CheckpointError(f"{path} holds more than weights and was not executed: load it where you trust it "
                                  "and save its state_dict alone") from error
        raise CheckpointError(f"{path} is not a checkpoint, or damaged: fetch it again") from error
    except CheckpointError:
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        raise CheckpointError(f"{path} is not a checkpoint, or damaged: fetch it again ({error.strerror})") from error
    except Exception as error:  # damaged archives fail in many ways: zip, struct, unicode, key and runtime errors
        raise CheckpointError(f"{path} is not a checkpoint, or damaged: fetch it again "
                              f"({type(error).__name__})") from error


def _refuse_packed(path: Path) -> None:
    """Raise a CheckpointError if the directory of a zip file promises more than the file holds.

    torch packs nothing; a packed file of megabytes can fill the memory of any machine.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            return
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
    if size > path.stat().st_size:
        raise CheckpointError(f"{path} would unpack to {size:,} bytes, more than the file has: torch.save writes no "
                              "such files, fetch it again")


def _is_whole_pickle(path: Path) -> bool:
    """Return whether a refused file is a complete pickle (refused for its content) and not a damaged one."""
    with open(path, "rb") as file:
        if zipfile.is_zipfile(file):
            return True
        file.seek(0)
        start = file.read(2)
        file.seek(-1, os.SEEK_END)
        return start[:1] == b"\x80" and start[1] <= pickle.HIGHEST_PROTOCOL and file.read(1) == pickle.STOP


def _read(path: Path) -> tuple[Config, dict[str, Tensor], bool]:
    """Return a file's configuration, its rows, and whether shared rows are stored once."""
    metadata = _read_metadata(path)
    if metadata is None:
        content = read_pickle(path)
    else:
        content = safetensors.torch.load_file(path)
        if FORMAT in metadata:
            return _config(path, _header(path, metadata)["config"]), content, True
        for name, kept in metadata.items():  # safetensors.torch.save_model records the shared rows that it left out
            if kept in content:
                content.setdefault(name, content[kept])
    fields = content.get("config") if isinstance(content, dict) else None
    for key in ("ema", "model", "state_dict", "params"):  # a training checkpoint has "ema" and "model"; "ema" is used
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no state dict: expected rows such as conv_in.weight")
    rows = {}
    for name, row in content.items():
        if not isinstance(name, str) or not isinstance(row, Tensor):
            raise CheckpointError(f"{path} holds no state dict: {name!r} is not a tensor")
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        rows[name] = row
    return _config(path, fields) if fields is not None else _infer_config(path, rows), rows, False


def _read_metadata(path: Path) -> dict[str, str] | None:
    """Return the metadata of a `.safetensors` file, recognised by its content; None for any other file."""
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] != b"{" or start[:2] == b"PK":
        return None
    try:
        with safetensors.safe_open(path, "pt") as opened:
            return opened.metadata() or {}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is a damaged .safetensors file: fetch it again ({error})") from error


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return {"config": ..., "notes": ...} of this project's `.safetensors`."""
    try:
        header = json.loads(metadata[FORMAT])
        return {"config": dict(header["config"]), "notes": dict(header["notes"])}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        cause = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} has no readable configuration of this project: {cause}") from error


def _config(path: Path, fields: Any) -> Config:
    try:
        return config_from_dict(fields)
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} has a configuration this version cannot build: {error}") from error


def _infer_config(path: Path, rows: Mapping[str, Tensor]) -> Config:
    """Infer the published constructor arguments from the names and shapes of the rows."""
    def count(pattern: str) -> int:
        return 1 + max((int(match[1]) for name in rows if (match := re.match(pattern, name))), default=-1)

    first = rows.get("conv_in.weight")
    if first is None or first.ndim != 4:
        shown = ", ".join(list(rows)[:3])
        raise CheckpointError(f"{path} is of another network: no row conv_in.weight of rank 4 (it has {shown}, ...)")
    return _config(path, {
        "in_channels": first.shape[1], "out_channels": first.shape[1], "n_feat": first.shape[0],
        "kernel_size": first.shape[2], "bias": "conv_in.bias" in rows, "n_RRG": count(r"body\.(\d+)\."),
        "n_MSRB": count(r"body\.0\.body\.(\d+)\.blocks\."), "height": count(r"body\.0\.body\.0\.blocks\.(\d+)\."),
        "width": count(r"body\.0\.body\.0\.blocks\.0\.(\d+)\.")})


def _check_rows(path: Path, rows: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]],
                shared_first: Mapping[str, str]) -> None:
    """Raise a CheckpointError unless the rows are exactly those of the network and shared rows are equal."""
    plain = {name: row for name, row in rows.items() if not row.is_nested and not row.is_meta}
    if len(plain) < len(rows):  # nested tensors have no shape
        raise CheckpointError(f"{path}: rows hold no plain numbers: "
                              f"{', '.join([name for name in rows if name not in plain][:4])}")
    faults = {
        "missing": [name for name in shapes if name not in rows],
        "unexpected": [name for name in rows if name not in shapes],
        "of wrong shape": [f"{name} {tuple(rows[name].shape)} instead of {shape}" for name, shape in shapes.items()
                           if name in rows and tuple(rows[name].shape) != shape],
        "not floating point of 16, 32 or 64 bits": [name for name, row in rows.items() if row.dtype not in FLOATS],
        "not dense": [name for name, row in rows.items() if row.layout != torch.strided],
    }
    if not any(faults.values()):
        faults = {
            "not finite (NaN or infinity)": [name for name, row in rows.items() if not row.isfinite().all()],
            "different although the network shares them": [
                f"{name} and {first}" for name, first in shared_first.items()
                if name != first and not torch.equal(rows[name], rows[first])],
        }
    for fault, names in faults.items():
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise CheckpointError(f"{path}: {len(names)} rows are {fault}: {', '.join(names[:4])}{more}")

"""Metrics that are networks or models of vision, as `metrics.Metric`: LPIPS, and those of the package pyiqa.

LPIPS is that of Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, on
AlexNet. pyiqa has some with a truth and some without. Of both kinds most download weights at first use;
piqe (without a truth), vif, fsim, gmsd, nlpd and ms_ssim (with one) need none.
"""
from __future__ import annotations

import contextlib
import difflib
import io
import math
import re
import warnings
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from mirnet_torch.cli import UserError, install_command
from mirnet_torch.files.images import to_tensor
from mirnet_torch.measures.metrics import Metric

LPIPS_MINIMUM = 32  # AlexNet takes no smaller side
PROBE = 256  # pixels of the picture that a metric of pyiqa is tried on


def load_lpips(device: str | torch.device = "cpu") -> Metric:
    """Return LPIPS; it is NaN for images with a side under 32 pixels.

    Raises:
        UserError: the package lpips is not installed, or AlexNet's weights are not cached and the download failed.
    """
    try:
        import lpips
        import torchvision
    except ImportError as error:
        raise UserError(f"--lpips needs the package {error.name}: {install_command('lpips')}") from None
    url = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # hides the download's progress
            warnings.simplefilter("ignore")
            network = lpips.LPIPS(net="alex", verbose=False).to(device).eval()
    except (OSError, RuntimeError, EOFError) as error:  # offline, or a damaged file
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        raise UserError(f"--lpips needs AlexNet's weights and could not download them ({type(error).__name__}): "
                        f"download {url} on a computer that is online and put it at {cache}") from None

    @torch.no_grad()
    def distance(output: np.ndarray, truth: np.ndarray) -> float:
        if min(output.shape[:2]) < LPIPS_MINIMUM:
            return math.nan
        first, second = (to_tensor(image)[None].to(device) * 2 - 1 for image in (output, truth))
        return network(first, second).item()

    return Metric("lpips", distance, "LPIPS", lower_is_better=True)


def load_iqa(name: str, device: str | torch.device = "cpu") -> Metric:
    """Return a metric of pyiqa by its name there.

    Raises:
        UserError: pyiqa is not installed or has no such metric; its weights are not on this computer and cannot be
            downloaded; or it takes no single pictures. The metric itself raises one for a picture that it cannot take.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            import pyiqa
    except ImportError as error:
        raise UserError(f"--iqa needs the package {error.name}: {install_command('iqa')}") from None
    if name not in pyiqa.list_models():
        near = ", ".join(difflib.get_close_matches(name, pyiqa.list_models(), 5, 0.4))
        raise UserError(f"--iqa {name}: pyiqa has no such metric{near and f'; near are {near}'}; "
                        "python -c 'import pyiqa; print(pyiqa.list_models())' lists all")
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            metric = pyiqa.create_metric(name, device=torch.device(device))
            probe = np.random.default_rng(0).integers(0, 256, (PROBE, PROBE, 3), np.uint8)
            _measure(metric, probe, probe, device)  # some download only now
    except Exception as error:  # of any package that pyiqa builds on
        raise UserError(_why_not(name, error, said.getvalue())) from None

    def measure(output: np.ndarray, truth: np.ndarray) -> float:
        try:
            return _measure(metric, output, truth, device)
        except Exception as error:
            raise UserError(f"--iqa {name} cannot measure a picture of {output.shape[1]}x{output.shape[0]}: "
                            f"{_one_line(error)}") from None

    return Metric(name, measure, name, lower_is_better=bool(metric.lower_better))


@torch.no_grad()
def _measure(metric: Callable[..., Any], output: np.ndarray, truth: np.ndarray, device: str | torch.device) -> float:
    pictures = (output,) if getattr(metric, "metric_mode") == "NR" else (output, truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(metric(*(to_tensor(picture)[None].to(device) for picture in pictures)))


def _why_not(name: str, error: Exception, said: str) -> str:
    """Return the line for a metric that cannot be made, from the error and what was printed before it."""
    downloads = re.findall(r'Downloading: "(\S+)" to (\S+)', said)
    if downloads:
        url, path = downloads[-1]
        return (f"--iqa {name} needs weights that are not on this computer and could not be downloaded "
                f"({type(error).__name__}): download {url} on a computer that is online and put it at {path}")
    if isinstance(error, OSError):
        return (f"--iqa {name} needs weights that are not on this computer ({_one_line(error)}): use it once on a "
                f"computer that is online and copy {torch.hub.get_dir()} and ~/.cache/huggingface from there")
    return f"--iqa {name} cannot be used on single pictures: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:200]

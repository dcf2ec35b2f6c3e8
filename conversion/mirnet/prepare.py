"""Prepare a trained network for the bridge: equalise it, rewrite it, convert pictures to and from its core.

Of `photo` the whole network is converted, from picture to picture; its "core" input and output are pictures.

    prepared = prepare(load_model("mcu"), (160, 120), images)
    artefacts = bridge.convert(prepared.network, prepared.input_shape, prepared.to_core(calibration), ...)

Callers of the bridge need no other knowledge of a network; `Prepared` is the same for all kinds.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from conversion.mirnet import compact, published
from conversion.mirnet.equalise import equalised
from conversion.mirnet.photo import QUANTISED, DeployablePhoto
from conversion.mirnet.sketch import SKETCH
from mirnet_torch.cli import LARGEST_SIDE, Size, UserError
from mirnet_torch.photo import PhotoMIRNet
from mirnet_torch.presets import Network

LARGE_SIZE = (256, 256)  # (width, height) of the pictures for the published network
# For `photo`: the 4:3 of cameras, near 512x384, and sides that are multiples of 10 and of 8, so that nothing is padded.
PHOTO_SIZE = (480, 360)


@dataclass(frozen=True)
class Prepared:
    """A network for pictures of one size. Pictures are NHWC, float32 in [0, 1]."""

    model: Network  # as it was trained
    equalised: Network  # the same function with channels of equal range, or `model` itself
    network: nn.Module  # the deployable form of `equalised`, for the bridge
    size: Size  # (width, height)
    input_shape: tuple[int, int, int]  # (rows, columns, channels) of the core's input

    @property
    def original(self) -> tuple[nn.Module, str]:
        """The trained network, and the name of its method that computes what `network` does."""
        return self.model, "core"

    @property
    def quantised(self) -> tuple[str, ...]:
        """The modules of `network` that int8 models compute in integers; none: all."""
        return ()

    def to_core(self, pictures: np.ndarray) -> np.ndarray:
        """Turn pictures (N, H, W, C) into inputs of the core (N, rows, columns, channels)."""
        return nhwc(self.model.to_core(nchw(pictures)))

    @torch.no_grad()
    def to_pictures(self, pictures: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return the restored pictures, not clamped, given the pictures and the outputs of the core for them."""
        return nhwc(self.model.restore(nchw(pictures), nchw(outputs)))


class PreparedPhoto(Prepared):
    """`photo` for pictures of one size: its core is the whole network."""

    @property
    def original(self) -> tuple[nn.Module, str]:
        return WholePicture(self.model), "forward"

    @property
    def quantised(self) -> tuple[str, ...]:
        return QUANTISED

    def to_core(self, pictures: np.ndarray) -> np.ndarray:
        return np.asarray(pictures, np.float32)

    def to_pictures(self, pictures: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        return outputs


class WholePicture(nn.Module):
    """A network from picture to picture, clamped to [0, 1]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        if image.device.type == "meta":  # where torch.autocast, which the network turns off, is not known
            return torch.empty_like(image)
        return self.model(image).clamp(0, 1)


def prepare(model: Network, size: Size, images: np.ndarray | None = None) -> Prepared:
    """Prepare a network for pictures of one size; the network itself is not changed.

    Args:
        model: a trained network.
        size: (width, height).
        images: pictures like those it will be used on, NHWC in [0, 1], to equalise it with; None: not equalised.

    Raises:
        UserError: a side does not suit the network.
    """
    check_size(model, size)
    equalised_model = model if images is None else equalised(model, nchw(images).to(next(model.parameters()).dtype))
    width, height = size
    if isinstance(equalised_model, PhotoMIRNet):
        return PreparedPhoto(model, equalised_model, DeployablePhoto(equalised_model, (height, width)), size,
                             (height, width, model.config.in_channels))
    kind = published if isinstance(equalised_model, published.MIRNet) else compact
    network = kind.deployable(equalised_model, height=height, width=width)
    _, channels, rows, columns = model.to_core(torch.empty(1, model.config.in_channels, height, width)).shape
    return Prepared(model, equalised_model, network, size, (rows, columns, channels))


def default_size(model: Network) -> Size:
    """Return the default (width, height): a camera frame for compact networks, 256x256 for published ones."""
    if isinstance(model, PhotoMIRNet):
        return PHOTO_SIZE
    return LARGE_SIZE if isinstance(model, published.MIRNet) else SKETCH.frame


def size_of(model: Network, input_shape: tuple[int, ...]) -> Size:
    """Return the (width, height) of pictures whose core input has the shape (rows, columns, channels)."""
    cell = 1 if isinstance(model, (published.MIRNet, PhotoMIRNet)) else model.config.cell
    return input_shape[1] * cell, input_shape[0] * cell


def check_size(model: Network, size: Size) -> None:
    """Raise a UserError unless both sides are positive multiples of `picture_multiple`."""
    multiple = picture_multiple(model)
    if any(side < multiple or side % multiple for side in size):
        largest = LARGEST_SIDE // multiple
        nearest = "x".join(str(min(max(1, round(side / multiple)), largest) * multiple) for side in size)
        raise UserError(f"the size {size[0]}x{size[1]} does not suit this network: both sides must be positive "
                        f"multiples of {multiple}, the nearest is {nearest}")


def picture_multiple(model: Network) -> int:
    """Return what both sides of pictures must be multiples of; for `photo` it is that of both of its networks."""
    if isinstance(model, PhotoMIRNet):
        return math.lcm(model.multiple, model.config.detail_multiple)
    return model.multiple


def nchw(array: np.ndarray) -> Tensor:
    """Turn an array (N, H, W, C) into a float32 tensor (N, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(array, np.float32).transpose(0, 3, 1, 2)))


def nhwc(tensor: Tensor) -> np.ndarray:
    """Turn a tensor (N, C, H, W) into an array (N, H, W, C)."""
    return np.ascontiguousarray(tensor.detach().numpy().transpose(0, 2, 3, 1))

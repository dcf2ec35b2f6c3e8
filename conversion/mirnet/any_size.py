"""`photo` as one ONNX file for pictures of any size: picture in, picture out.

Inputs, float32; all but the first may be left out:

    image     (1, C, H, W) in [0, 1]: a photograph, or a tile of one
    view      (1, C, h, w): of a tile, the whole photograph, shrunk by a box filter to at most `COPY_PIXELS`; light and
              colour come from it. Left out: the image itself, which the file shrinks if it has more pixels
    window    int64, 4: row and column of the tile's first pixel, rows and columns of the photograph. Left out: the
              image is the whole photograph
    exposure  (1,): EV, 0 if left out

    restored  (1, C, H, W) in [0, 1]

So the file computes what `mirnet_torch.enhance` does, also of a photograph in tiles (`full_size.py`): whole pictures as
`PhotoMIRNet.forward`, which pads both sides to multiples of its own, and tiles without that.
`mirnet_torch.restoration.converted` uses the file so.
"""
from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from conversion.bridge.onnx_export import trace
from conversion.mirnet.photo import DeployablePhoto
from mirnet_torch.cli import atomic_path
from mirnet_torch.photo import PhotoMIRNet
from mirnet_torch.restoration.full_size import COPY_PIXELS


class AnySizePhoto(nn.Module):
    """What the file computes, but for the choice of `seen`: the view, or the image, shrunk where it is too large."""

    def __init__(self, model: PhotoMIRNet) -> None:
        super().__init__()
        self.cell, self.multiple, self.detail_multiple = (
            model.config.cell, model.config.multiple, model.config.detail_multiple)
        self.photo = DeployablePhoto(model, None)

    def forward(self, image: Tensor, seen: Tensor, view: Tensor, window: Tensor, exposure: Tensor) -> Tensor:
        height, width = image.shape[2:]
        whole = 1 - torch.as_tensor(view.shape[2]).clamp(max=1)  # 1 if the image is a whole photograph, else 0
        padded = pad_edges(image, 1 + whole * (self.multiple - 1))
        root = padded.sqrt()
        factors = torch.cat(self.photo.factors(self.photo.colour(pad_edges(seen, self.multiple).sqrt())), 1)
        row, column, rows, columns = window.unbind()
        down = self.interpolation(padded.shape[2], row, rows + (rows == 0) * height, seen.shape[2])
        across = self.interpolation(padded.shape[3], column, columns + (columns == 0) * width, seen.shape[3])
        enlarged = (down @ (factors @ across.T)).split(self.photo.factors.parts, 1)
        bright = self.photo.recolour(padded, root, enlarged, (exposure * (math.log(2) / 2.2)).exp().view(1, 1, 1, 1))
        bright, root = (pad_edges(each, self.detail_multiple) for each in (bright, root))
        return (bright + self.photo.detail(bright, root))[..., :height, :width].clamp(0, 1)

    def interpolation(self, pixels: Any, first: Tensor, length: Tensor, seen: Any) -> Tensor:
        """Return the weight of every cell for every pixel, (pixels, cells): bilinear as in `full_size.apply_maps`."""
        padded = (torch.as_tensor(seen) + self.multiple - 1) // self.multiple * self.multiple
        cells = count(padded // self.cell)
        scale = torch.as_tensor(seen).double() / length.double() / self.cell
        position = (count(pixels).double() + first.double() + 0.5) * scale - 0.5
        position = torch.minimum(position.clamp(min=0), cells[-1].double())
        return (1 - (position[:, None] - cells.double()).abs()).clamp(min=0).float()


class Shrink(nn.Module):
    """The box filter of `full_size.box_filter`, to the size of `full_size.copy_size`."""

    def forward(self, image: Tensor) -> Tensor:
        height, width = (torch.as_tensor(side).double() for side in image.shape[2:])
        scale = (COPY_PIXELS / (height * width)).sqrt().clamp(max=1)
        down, across = (self.coverage(side, (side * scale).round().clamp(min=1)) for side in (height, width))
        return down @ (image @ across.T)

    @staticmethod
    def coverage(pixels: Tensor, copied: Tensor) -> Tensor:
        """Return the share of every pixel in every pixel of the copy: (copied, pixels)."""
        first = count(pixels.long()).double()
        edge = count(copied.long()).double()[:, None] * (pixels / copied)
        covered = torch.minimum(first + 1, edge + pixels / copied) - torch.maximum(first, edge)
        return (covered.clamp(min=0) * (copied / pixels)).float()


def count(stop: Any) -> Tensor:
    """Return 0, 1 ... stop - 1, also where `stop` is known only at run time."""
    return torch.arange(stop)


def pad_edges(image: Tensor, multiple: Any) -> Tensor:
    """Repeat the last row and column until both sides are multiples, also where these are known only at run time."""
    bottom, right = (-torch.as_tensor(side) % multiple for side in image.shape[2:])
    return F.pad(image, [0, right, 0, bottom], mode="replicate")


def export_any_size(model: PhotoMIRNet, path: str | os.PathLike[str], *, metadata: dict[str, str]) -> None:
    """Write the file, whole or not at all; the same network and metadata give the same bytes.

    Args:
        model: a trained network.
        path: the file to write.
        metadata: properties of the file; its limits for tiles are added to them.
    """
    channels = model.config.in_channels
    picture, copy = torch.zeros(1, channels, 96, 88), torch.zeros(1, channels, 64, 72)
    sides = {2: "height", 3: "width"}
    network = trace(
        AnySizePhoto(model).float().eval(), (picture, copy, copy, torch.tensor([0, 0, 96, 88]), torch.zeros(1)),
        inputs=["image", "seen", "view", "window", "exposure"], output="restored",
        axes={"image": sides, "restored": sides, "seen": {2: "rows", 3: "columns"},
              "view": {2: "view_height", 3: "view_width"}})
    shrink = trace(Shrink(), (picture,), inputs=["image"], output="copy",
                   axes={"image": sides, "copy": {2: "rows", 3: "columns"}})
    _choose_view(network.graph, onnx.compose.add_prefix(shrink, "shrink/", rename_inputs=False).graph)
    defaults: dict[str, np.ndarray] = {
        "view": np.zeros((1, channels, 0, 0), np.float32), "window": np.zeros(4, np.int64),
        "exposure": np.zeros(1, np.float32)}
    network.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in defaults.items())
    network.graph.name = "photo"
    for dim, size in zip(network.graph.output[0].type.tensor_type.shape.dim, (1, channels)):
        dim.dim_value = size
    del network.metadata_props[:]
    limits = {"copy_pixels": str(COPY_PIXELS), "tile_multiple": str(model.config.detail_multiple)}
    helper.set_model_props(network, dict(sorted((metadata | limits).items())))
    onnx.checker.check_model(network, full_check=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(network.SerializeToString(deterministic=True))


def _choose_view(graph: onnx.GraphProto, shrink: onnx.GraphProto) -> None:
    """Compute the input "seen" inside the graph: the view if there is one, else the image, shrunk if it is large."""
    view = next(value for value in graph.input if value.name == "view")
    channels = view.type.tensor_type.shape.dim[1].dim_value
    graph.input.remove(next(value for value in graph.input if value.name == "seen"))

    def branch(name: str, nodes: list[onnx.NodeProto], output: str, weights: Any = ()) -> onnx.GraphProto:
        made = helper.make_tensor_value_info(output, TensorProto.FLOAT,
                                             [1, channels, f"{name}_rows", f"{name}_columns"])
        return helper.make_graph(nodes, name, [], [made], list(weights))

    def same(source: str, name: str) -> onnx.GraphProto:
        return branch(name, [helper.make_node("Identity", [source], [f"{name}/seen"])], f"{name}/seen")

    constants = {"choice/none": 0, "choice/most": COPY_PIXELS * channels}
    graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in constants.items())
    small_or_not = helper.make_node(
        "If", ["choice/is_large"], ["choice/own"], name="choice/If_large",
        then_branch=branch("large", list(shrink.node), shrink.output[0].name, shrink.initializer),
        else_branch=same("image", "small"))
    nodes = [helper.make_node("Size", ["view"], ["choice/viewed"], name="choice/Size"),
             helper.make_node("Greater", ["choice/viewed", "choice/none"], ["choice/is_given"], name="choice/Given"),
             helper.make_node("Size", ["image"], ["choice/size"], name="choice/Size_image"),
             helper.make_node("Greater", ["choice/size", "choice/most"], ["choice/is_large"], name="choice/Large"),
             helper.make_node("If", ["choice/is_given"], ["seen"], name="choice/If",
                              then_branch=same("view", "given"),
                              else_branch=branch("own", [small_or_not], "choice/own"))]
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)

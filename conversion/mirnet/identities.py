"""Exact identities on modules, from which the deployable forms of both kinds of network are made.

Each function or class is one identity, stated in its docstring. Nothing is approximated: in float64 each result equals
the module up to rounding, and a test shows it.
"""
from __future__ import annotations

import warnings
from typing import Any, Callable, Sequence

import torch
from torch import Tensor, nn

# PhaseConvolution pads kernels of even size on one side, for which torch copies its input; that costs little here.
warnings.filterwarnings("ignore", "Using padding='same' with even kernel", UserWarning)


def single_slope(prelu: nn.PReLU) -> nn.LeakyReLU:
    """PReLU with one slope a is x for x > 0, else a * x: LEAKY_RELU with a constant, for any a."""
    if prelu.weight.numel() != 1:
        raise ValueError("only a PReLU with one slope for all channels can be rewritten")
    return nn.LeakyReLU(float(prelu.weight.detach()))


def channel_mean(channels: int, like: Tensor) -> nn.Conv2d:
    """The mean over C channels is a 1x1 convolution whose C weights are all 1/C."""
    return convolution(torch.full((1, channels, 1, 1), 1 / channels, dtype=torch.float64), like=like)


def whole_map_mean(size: tuple[int, int] | None) -> nn.Module:
    """The mean over a map of known size is an average pool whose window is the map; `size` None: for maps of any."""
    return nn.AdaptiveAvgPool2d(1) if size is None else nn.AvgPool2d(size)


def whole_map_peak(size: tuple[int, int] | None) -> nn.Module:
    """The maximum over a map of known size is a max pool whose window is the map; `size` None: for maps of any."""
    return nn.AdaptiveMaxPool2d(1) if size is None else nn.MaxPool2d(size)


def split_inputs(conv: nn.Conv2d, parts: Sequence[int]) -> list[nn.Conv2d]:
    """conv(concat(a, b, ...)) = conv_a(a) + conv_b(b) + ..., each with its slice of weights; the first has the bias.

    Args:
        parts: channels of a, b, ...
    """
    slices = conv.weight.split(list(parts), 1)
    return [convolution(weight, conv.bias if i == 0 else None, like=conv.weight, padding=conv.padding)
            for i, weight in enumerate(slices)]


def hard_sigmoid_scale(gate: nn.Module) -> float:
    """hardsigmoid(x) = relu6(x + 3) / 6: return the factor 1/6, to be applied after `clamp`; 1 for a sigmoid."""
    return 1 / 6 if isinstance(gate, nn.Hardsigmoid) else 1.0


def shifted(conv: nn.Conv2d, gate: nn.Module) -> nn.Conv2d:
    """hardsigmoid(conv(x)) = relu6(conv(x) + 3) / 6: the + 3 goes into the bias; unchanged for a sigmoid."""
    if not isinstance(gate, nn.Hardsigmoid):
        return conv
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    return convolution(conv.weight, bias.double() + 3, like=conv.weight, padding=conv.padding)


def clamp(gate: nn.Module) -> nn.Module:
    """The part of a gate between `shifted` and `hard_sigmoid_scale`: ReLU6, which fuses into the convolution before."""
    return nn.ReLU6() if isinstance(gate, nn.Hardsigmoid) else nn.Sigmoid()


def times(weights: Tensor, factor: float) -> Tensor:
    """Return weights times a factor; a factor of 1 adds no operator."""
    return weights if factor == 1 else weights * factor


def scaled(conv: nn.Conv2d, factor: float) -> nn.Conv2d:
    """conv(factor * x) = (factor * conv)(x) for a convolution without bias."""
    return convolution(conv.weight.double() * factor, like=conv.weight, padding=conv.padding)


def product(outer: nn.Conv2d, inner: nn.Conv2d) -> nn.Conv2d:
    """outer(inner(x)) of two 1x1 convolutions is one 1x1 convolution with the product of their matrices."""
    first, second = (conv.weight[:, :, 0, 0].double() for conv in (inner, outer))
    biases = [conv.weight.new_zeros(len(conv.weight)) if conv.bias is None else conv.bias for conv in (inner, outer)]
    bias = second @ biases[0].double() + biases[1].double()
    return convolution((second @ first)[..., None, None], bias, like=outer.weight)


def over_blocks(conv: nn.Conv2d, block: int) -> nn.Conv2d:
    """conv(pixel_unshuffle(x, s)) is one convolution of x with stride s and a kernel s times as large."""
    out, _, side, _ = conv.weight.shape
    kernel = conv.weight.unflatten(1, (-1, block, block)).permute(0, 1, 4, 2, 5, 3)
    return convolution(kernel.reshape(out, -1, side * block, side * block), conv.bias, like=conv.weight,
                       padding=side // 2 * block, stride=block)


def by_phase(conv: nn.Conv2d) -> nn.Conv2d:
    """pixel_shuffle(conv(x), 2) = DepthToSpace(conv'(x)): the same filters, those of one phase side by side."""
    def ordered(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)

    bias = None if conv.bias is None else ordered(conv.bias)
    return convolution(ordered(conv.weight), bias, like=conv.weight, padding=conv.padding)


class PhaseConvolution(nn.Module):
    """A transposed convolution (kernel 3, stride 2, padding 1, output padding 1) as four convolutions at half the size.

    Output 2i + p of a row is sum_k w[k] x[i'] over 2i' + k - 1 = 2i + p: for p = 0 only w[1] x[i]; for p = 1
    w[2] x[i] + w[0] x[i + 1]. In two dimensions the four phases are convolutions with 1x1, 1x2, 2x1 and 2x2 kernels,
    which look one position to the right and below (zero there outside the map). They hold the 9 C^2 weights of the
    original and no zeros; DEPTH_TO_SPACE interleaves them, phase by phase as TensorFlow orders channels ("DCR").

    `activation` is applied to the phases: an elementwise function commutes with moving elements.
    """

    def __init__(self, conv: nn.ConvTranspose2d, activation: nn.Module) -> None:
        super().__init__()
        expected = dict(kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), output_padding=(1, 1), bias=None)
        if any(getattr(conv, name) != value for name, value in expected.items()):
            raise ValueError(f"only a transposed convolution with {expected} can be rewritten, not {conv}")
        kernel = conv.weight.transpose(0, 1)  # (out, in, 3, 3)
        taps = ([1], [2, 0])
        self.phases = nn.ModuleList(
            convolution(kernel[:, :, rows][:, :, :, columns], like=conv.weight, padding="same")
            for rows in taps for columns in taps)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return DepthToSpace.apply(torch.cat([self.activation(phase(x)) for phase in self.phases], 1))


class DepthToSpace(torch.autograd.Function):
    """(B, 4C, H, W) -> (B, C, 2H, 2W), channels ordered as [row phase, column phase, C]: ONNX's DepthToSpace, mode DCR.

    `torch.pixel_shuffle` knows only the other order, [C, row phase, column phase].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.reshape(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * h, 2 * w)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("DepthToSpace", x, blocksize_i=2, mode_s="DCR")


def convolution(weight: Tensor, bias: Tensor | None = None, *, like: Tensor, padding: Any = 0,
                stride: int = 1) -> nn.Conv2d:
    """Return a convolution with these weights, in the data type and on the device of `like`."""
    out_channels, in_channels, rows, columns = weight.shape
    conv = nn.Conv2d(in_channels, out_channels, (rows, columns), stride, padding=padding, bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach().to(like, copy=True).contiguous(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().to(like, copy=True), requires_grad=False)
    return conv.eval()


def replace_modules(root: nn.Module, kind: type[nn.Module], rewrite: Callable[[Any], nn.Module]) -> None:
    """Replace every module of one kind below `root`; a shared module gets one replacement."""
    done: dict[int, nn.Module] = {}
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, done.setdefault(id(child), rewrite(child)))

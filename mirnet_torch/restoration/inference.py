"""The published network for use, not training: the function of `MIRNet.forward` in less time and memory.

    restored = restore(model, image)      # model(image), up to rounding

It reads like `model.py`, block by block, and uses the same modules and weights. What differs:

* Maps are stored channels-last, the layout in which the convolutions of CPUs and GPUs compute.
* Sums and activations overwrite maps that are not needed any more, and maps are freed early. The second half of a DAU
  and enlarging go in strips of rows, so that their temporary maps are small.
* Bilinear enlarging and a 1x1 convolution commute; after the convolution there is less to enlarge.
* A transposed convolution of stride 2 is four small convolutions, one for each phase (even or odd row and column).
* The mean of a sum is the sum of the means, so SKFF adds numbers, not maps. Its weights of one stream alone are 1.
* What starts a coarser stream is needed again after the first column; it is computed once.

`python -m mirnet_torch.benchmark` measures both on your machine. On two cores of an AMD EPYC: at 256x256 2.2 times
less time and 39 % of the memory, at 600x400 3.0 times and 51 %. On another such machine, whose cores multiplied half as
fast (210 GFLOP/s, of which the convolutions reach all): 1.6 times and 41 %, 2.0 times and 52 %.
"""
from __future__ import annotations

from typing import Any, Callable, Container, Iterator, Sequence, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirnet_torch.model import (DAU, MSRB, RRG, SKFF, BlurDown, ChannelAttention, MIRNet, Resample, ResidualDown,
                                ResidualUp, SpatialAttention, pad_image, total)

# Values of one strip of a map on a CPU: in a DAU, where a core's cache should hold it; in enlarging, where every strip
# computes one row more.
STRIP_UNIT, STRIP_UP = 2 ** 19, 2 ** 20
Mean = Callable[[Sequence[Tensor]], Tensor]
Downs = dict[tuple[int, int], Tensor]  # by (source, target): finer streams at the resolution of coarser ones
_KINDS = {MIRNet, RRG, MSRB, SKFF, DAU, SpatialAttention, ChannelAttention, Resample, ResidualDown, ResidualUp,
          BlurDown, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Conv2d, nn.ConvTranspose2d, nn.PReLU, nn.ReLU,
          nn.Sigmoid, nn.Upsample}


def suits(model: nn.Module) -> TypeGuard[MIRNet]:
    """Return whether `restore` computes what a network's own forward pass does.

    It does for a `MIRNet` as `model.py` builds it. It does not if somebody has replaced a module (for another kind of
    numbers, say) or hooked one: then the network's own forward pass is the one to use.
    """
    return type(model) is MIRNet and is_built_of(model, _KINDS)


def is_built_of(model: nn.Module, kinds: Container[type[nn.Module]]) -> bool:
    """Return whether all modules of a network are of these kinds, none of a subclass, and without hooks."""
    return all(type(module) in kinds and not module._forward_hooks and not module._forward_pre_hooks
               for module in model.modules())


def own_mean(maps: Sequence[Tensor]) -> Tensor:
    """Return the mean over the positions of a sum of maps: (B, C, H, W) each -> (B, C, 1, 1)."""
    return total([each.mean((2, 3), keepdim=True) for each in maps])


def means_of(model: MIRNet, image: Tensor) -> list[Tensor]:
    """Return all means over positions that attention and fusion take of an image, in their order.

    They are what a network knows of a whole picture. `restore` with the means of a small copy treats a part of the
    picture nearly as it would treat it within the whole.
    """
    means: list[Tensor] = []

    def keep(maps: Sequence[Tensor]) -> Tensor:
        means.append(own_mean(maps))
        return means[-1]

    _network(model, image, keep)
    return means


def restore(model: MIRNet, image: Tensor, means: Sequence[Tensor] | None = None) -> Tensor:
    """Return `model(image)` up to rounding, for a network that `suits`; neither of the two is changed.

    Args:
        model: the published network, in any configuration.
        image: (B, in_channels, H, W), in the data type and on the device of the network.
        means: of the picture that the image is a part of, from `means_of`; None: those of the image.

    Returns:
        The restored image, not clamped, of the same shape. It has no gradient.

    Raises:
        ValueError: the image has another shape.
    """
    given = iter(means or ())
    return _network(model, image, own_mean if means is None else lambda maps: next(given))


@torch.no_grad()
def _network(model: MIRNet, image: Tensor, mean: Mean) -> Tensor:
    """MIRNet; `mean` gives attention and fusion the means of maps."""
    padded = pad_image(image, model.config.in_channels, model.multiple)
    features = model.conv_in(padded.contiguous(memory_format=torch.channels_last))
    features = features.contiguous(memory_format=torch.channels_last)  # a grey image has no order of channels
    for group in _parts(model.body):
        features = _group(group, features, mean)
    return (padded + model.conv_out(features))[..., :image.shape[-2], :image.shape[-1]].contiguous()


def _group(group: RRG, x: Tensor, mean: Mean) -> Tensor:
    """RRG."""
    *blocks, conv = _parts(group.body)
    features = x
    for block in blocks:
        features = _block(block, features, mean)
    return conv(features).add_(x)


def _block(block: MSRB, x: Tensor, mean: Mean) -> Tensor:
    """MSRB."""
    units: Any = block.blocks
    scales = range(len(block.widths))
    streams: list[Tensor] = []
    downs: Downs = {}
    for j in scales:
        start = downs[j - 1, j] if j else x
        streams.append(_unit(units[j][0], start, mean, out=None))
        del start
        # At once, while the coarser streams are not there yet: it takes several maps of the finer one's size.
        downs |= _bring_down(block, streams, j, scales[j + 1:] if block.columns > 1 else scales[j + 1:j + 2])
    for column in range(1, block.columns):
        fused = [_exchange(block, streams, target, downs, mean) for target in reversed(scales)]  # the coarsest first
        for j in scales:
            streams.append(_unit(units[j][column], fused[-1], mean, out=fused.pop()))
            downs |= _bring_down(block, streams, j, scales[j + 1:] if column + 1 < block.columns else ())
    downs.clear()
    full = [_resample(block.last_up[str(j)], streams.pop()) for j in reversed(scales[1:])]
    fused_all = _fuse(_parts(block.selective_kernel)[0], [*streams, *full[::-1]], 0, mean)
    del streams, full
    return block.conv_out(fused_all).add_(x)


def _bring_down(block: MSRB, streams: list[Tensor], source: int, targets: Sequence[int]) -> Downs:
    return {(source, target): _resample(block.resampler(source, target), streams[source]) for target in targets}


def _exchange(block: MSRB, streams: list[Tensor], target: int, downs: Downs, mean: Mean) -> Tensor:
    """Fuse all streams at the resolution of one, and remove what is not needed any more."""
    brought = [downs.pop((source, target)) for source in range(target)]
    coarser = []
    for source in reversed(range(target + 1, len(block.widths))):
        stream = streams[source] if target else streams.pop()
        coarser.append(_resample(block.resampler(source, target), stream))
        del stream
    own = streams[target] if target else streams.pop()
    return _fuse(_parts(block.selective_kernel)[target], [*brought, own, *coarser[::-1]], target, mean)


def _unit(unit: DAU, x: Tensor, mean: Mean, out: Tensor | None) -> Tensor:
    """DAU, written into `out`, which may be `x`; None: into a new map."""
    first, activation, second = _parts(unit.body)
    features = second(_activate(activation, first(x)))
    attention: Any = unit
    pooled = torch.cat([features.amax(1, keepdim=True), features.mean(1, keepdim=True)], 1)
    spatial = attention.SA.spatial(pooled).sigmoid_()  # (B, 1, H, W)
    channel = attention.CA.conv_du(mean([features]))  # (B, C, 1, 1)
    out = torch.empty_like(x) if out is None else out
    for rows in _strips(features, STRIP_UNIT):
        part = features[:, :, rows]
        attended = torch.cat([part * spatial[:, :, rows], part * channel], 1)
        torch.add(x[:, :, rows], unit.conv1x1(attended), out=out[:, :, rows])
    return out


def _fuse(fusion: SKFF, streams: list[Tensor], own: int, mean: Mean) -> Tensor:
    """SKFF. All streams but `own` are overwritten."""
    if len(streams) == 1:
        return streams[0]
    squeezed = fusion.conv_du(mean(streams))
    weights = torch.stack([fc(squeezed) for fc in fusion.fcs]).softmax(0)  # (k, B, C, 1, 1)
    first = 1 if own == 0 else 0
    result = streams[first].mul_(weights[first])
    for s, stream in enumerate(streams):
        if s != first:
            result.addcmul_(stream, weights[s])
    return result


def _resample(path: nn.Module, x: Tensor) -> Tensor:
    for step in _parts(path.body):
        x = _down(step, x) if isinstance(step, ResidualDown) else _up(step, x)
    return x


def _down(step: ResidualDown, x: Tensor) -> Tensor:
    """ResidualDown."""
    first, activation, second, second_activation, blur, last = _parts(step.top)
    top = blur(_activate(second_activation, second(_activate(activation, first(x)))))
    return last(top).add_(step.bot(x))


def _up(step: ResidualUp, x: Tensor) -> Tensor:
    """ResidualUp."""
    first, activation, double, second_activation, last = _parts(step.top)
    bilinear, conv = _parts(step.bot)
    out = bilinear(conv(x))
    # Output 2i is w[1] x[i], output 2i + 1 is w[2] x[i] + w[0] x[i + 1], in rows and in columns. A kernel of two taps
    # is padded by one at both ends; of its outputs the first is not wanted.
    kernel = double.weight.transpose(0, 1).flip(2, 3)  # (out, in, 3, 3), w[2] first
    taps = (slice(1, 2), slice(0, 3, 2))  # of even and of odd outputs
    phases = {(row, column): kernel[:, :, taps[row], taps[column]].contiguous(memory_format=torch.channels_last)
              for row in (0, 1) for column in (0, 1)}
    for rows in _strips(x, STRIP_UP):
        features = _activate(activation, first(x[:, :, rows.start:rows.stop + 1]))  # the row below is seen, too
        part = out[:, :, 2 * rows.start:2 * rows.stop]
        for (row, column), weight in phases.items():
            phase = last(_activate(second_activation, F.conv2d(features, weight, padding=(row, column))))
            part[:, :, row::2, column::2] += phase[:, :, row:rows.stop - rows.start + row, column:]
    return out


def _parts(modules: Any) -> list[Any]:
    """Return the modules of a sequence, for the type checker of any type."""
    return list(modules)


def _activate(prelu: nn.PReLU, x: Tensor) -> Tensor:
    """PReLU with one slope, in place; on a GPU not, since the slope would have to be waited for."""
    return F.leaky_relu_(x, float(prelu.weight.detach())) if x.device.type == "cpu" else prelu(x)


def _strips(features: Tensor, values: int) -> Iterator[slice]:
    """Cut a map into strips of whole rows of about so many values; on a GPU, which wants few large kernels, not."""
    batch, channels, height, width = features.shape
    rows = max(values // (batch * channels * width), 1) if features.device.type == "cpu" else height
    return (slice(start, min(start + rows, height)) for start in range(0, height, rows))

"""Training samples by number, and the batches made of them.

Every sample is a pure function of (seed, number of the sample): crop, flips, rotation, camera noise and the direction
of a view come from a generator made for that sample alone. So batches do not depend on workers, processes or
interruptions. The two images of a pair are one tensor, so every crop, flip and rotation applies to both.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Iterator, Sequence, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mirnet_torch.cli import UserError
from mirnet_torch.scenes.camera import DARK, FORMATS, FULL_LIGHT, PIXELS, RETAKE, Camera, darken, to_jpeg
from mirnet_torch.scenes.panoramas import NIGHT, expose_twice, random_view, read_panorama
from mirnet_torch.scenes.sources import SHOWN, VIEWS, Scenes, Sources, stack_images

LAMPS = 0.4  # share of the views of panoramas that get more lamps; most panoramas have few
_ORDER, _SAMPLE, _MIXUP, _VIEW = 0, 1, 2, 4  # independent streams of random numbers; `sources` has another


@dataclass(frozen=True)
class Augmentation:
    """How a patch is cut from a scene and varied."""

    patch: tuple[int, int]  # (width, height)
    flips: bool = True  # left-right and upside down
    rotations: bool = True  # by quarter turns
    scales: bool = False  # crops from the size of the patch up to the whole scene, resized to the patch
    jitter: bool = False  # the camera model varies every other dark patch: exposure, white balance, noise, format
    yuv422: float = 0.0  # share of dark patches, besides those of the camera model, as YUV 4:2:2 has them
    rgb565: float = 0.0  # the same for RGB565
    jpeg: float = 0.0  # share of dark patches that are compressed as JPEG, at any usual quality
    pixel_noise: bool = False  # the camera model's noise is `camera.PIXELS`
    blend: float = 0.0  # share of dark patches that are blended with their bright partners, in any proportion
    relight: float = 0.0  # least light of dark patches made from bright ones, one in ten of all; 0: none are made

    @property
    def frame_format(self) -> str | None:
        """What the camera model sends, one of `camera.FORMATS`; None for photographs of larger cameras."""
        if self.pixel_noise:
            return None
        return "rgb565" if self.rgb565 and not self.yuv422 else "yuv422"

    def camera(self, camera: Camera) -> Camera:
        """Return a camera with the noise of these patches."""
        return replace(camera, **PIXELS) if self.pixel_noise else camera


class Samples(Dataset[Tensor]):
    """An endless sequence of training samples: every scene once in each pass, in a new order for each pass.

    A sample is a pair of patches, uint8 (2, 3, h, w), the dark one first. It depends only on the seed and its number.

    Raises:
        UserError: some scenes are smaller than the patch.
    """

    def __init__(self, scenes: Scenes, augmentation: Augmentation, *, seed: int) -> None:
        self.scenes, self.augmentation, self.seed = scenes, augmentation, seed
        width, height = augmentation.patch
        small = [f"{name} ({w}x{h})" for name, (w, h) in zip(scenes.names, scenes.sizes) if w < width or h < height]
        if small:
            more = f" and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
            raise UserError(f"{len(small)} scenes are smaller than the patch {width}x{height}, give a smaller --patch: "
                            f"{', '.join(small[:SHOWN])}{more}")

    @property
    def scene_count(self) -> int:
        """How many scenes the samples are cut from."""
        return len(self.scenes)

    def __len__(self) -> int:
        """Samples in one pass, which is an epoch."""
        return len(self.scenes) * self.scenes.views

    def __getitem__(self, number: int) -> Tensor:
        rng = np.random.default_rng((self.seed, _SAMPLE, number))
        return _disturbed(self._pair(number, rng), self.augmentation, rng)

    def _pair(self, number: int, rng: np.random.Generator) -> Tensor:
        passed, position = divmod(number, len(self))
        scene = int(_order(self.seed, passed, len(self))[position]) % len(self.scenes)
        patches = cut_patch(self.scenes[scene], self.augmentation, rng)
        if self.augmentation.relight and (draw := rng.random()) < 0.1:
            any_light = replace(FULL_LIGHT, exposure=(self.augmentation.relight, 1.0), white_balance=(0.9, 1.1))
            bright = patches[-1:]
            camera = FULL_LIGHT if draw < 0.05 else any_light
            return torch.cat([_darkened(bright, self.augmentation, rng, camera), bright])
        if len(patches) == 1:
            return torch.cat([_darkened(patches, self.augmentation, rng), patches])
        if self.augmentation.jitter and rng.random() < 0.5:
            return torch.cat([_darkened(patches[:1], self.augmentation, rng, RETAKE), patches[1:]])
        return patches.contiguous()


class Views(Dataset[Tensor]):
    """Training samples cut from panoramas, by number: without end, every panorama `VIEWS` times in each pass.

    A sample is as in `Samples`: a view in a random direction, exposed twice.

    Args:
        panoramas: linear light, see `panoramas.read_panorama`.
        augmentation: what happens to every sample, but for scales, rotations and jitter.
        seed: of all randomness.
    """

    def __init__(self, panoramas: Sequence[Tensor], augmentation: Augmentation, *, seed: int) -> None:
        self.panoramas, self.augmentation, self.seed = panoramas, augmentation, seed

    @property
    def scene_count(self) -> int:
        """How many panoramas the views are cut from."""
        return len(self.panoramas)

    def __len__(self) -> int:
        """Samples in one pass."""
        return len(self.panoramas) * VIEWS

    def __getitem__(self, number: int) -> Tensor:
        passed, position = divmod(number, len(self))
        rng = np.random.default_rng((self.seed, _VIEW, number))
        panorama = self.panoramas[int(_order(self.seed, passed, len(self))[position]) % len(self.panoramas)]
        light = random_view(panorama, self.augmentation.patch, rng)
        if self.augmentation.flips and rng.random() < 0.5:
            light = light[:, ::-1]
        camera, draw = NIGHT, rng.random()
        if self.augmentation.relight and draw < 0.1:
            camera = FULL_LIGHT if draw < 0.05 else replace(NIGHT, exposure=(self.augmentation.relight, 1.0))
        camera = self.augmentation.camera(camera)
        lamps, frame_format = rng.random() < LAMPS, _half_of_the_time(self.augmentation.frame_format, rng)
        pair = stack_images(*expose_twice(light, rng=rng, camera=camera, lamps=lamps, frame_format=frame_format))
        return _disturbed(pair, self.augmentation, rng)


class Mixture(Dataset[Tensor]):
    """Samples of several sources, interleaved in fixed shares; which source a number belongs to follows from it.

    Args:
        sources: what the samples come from, each without end.
        shares: of each source, whole numbers.
    """

    def __init__(self, sources: Sequence[Samples | Views], shares: Sequence[int]) -> None:
        self.sources = sources
        # A round takes `shares[k]` samples of source k, spread evenly.
        places = sorted(((turn + 0.5) / share, k) for k, share in enumerate(shares) for turn in range(share))
        self.round = [k for _, k in places]
        self.turns = [self.round[:place].count(k) for place, k in enumerate(self.round)]
        self.shares = shares

    @property
    def scene_count(self) -> int:
        """How many scenes all sources have together."""
        return sum(source.scene_count for source in self.sources)

    def __len__(self) -> int:
        """Samples in which every scene of the first source is seen once: an epoch."""
        return round(len(self.sources[0]) * len(self.round) / self.shares[0])

    def __getitem__(self, number: int) -> Tensor:
        rounds, place = divmod(number, len(self.round))
        k = self.round[place]
        return self.sources[k][rounds * self.shares[k] + self.turns[place]]


def open_samples(sources: Sources, augmentation: Augmentation, *, seed: int,
                 cache_bytes: int = 0) -> Samples | Views | Mixture:
    """Open sources for training.

    Args:
        sources: see `sources.find_sources`.
        augmentation: what happens to every sample.
        seed: of all randomness.
        cache_bytes: sources are kept decoded in memory, one after the other, as long as they need no more.

    Raises:
        UserError: a file cannot be read, or scenes are smaller than the patch.
    """
    opened: list[Samples | Views] = []
    for source in sources.train:
        if source.panoramas:
            panoramas = [read_panorama(path) for path in cast(Sequence[Path], source.scenes)]
            opened.append(Views(panoramas, augmentation, seed=seed))
        else:
            scenes = Scenes(source.scenes, cache_bytes=cache_bytes)
            cache_bytes -= scenes.kept_bytes
            opened.append(Samples(scenes, augmentation, seed=seed))
    return Mixture(opened, [source.share for source in sources.train]) if len(opened) > 1 else opened[0]


@lru_cache(maxsize=8)
def _order(seed: int, passed: int, length: int) -> np.ndarray:
    return np.random.default_rng((seed, _ORDER, passed)).permutation(length)


def cut_patch(scene: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Cut one random patch from all n images of uint8 (n, 3, H, W); scale, flip and turn it at random."""
    from torchvision.transforms.v2 import functional as F  # of the extra [train]; --help does not need it

    columns, rows = scene.shape[-1], scene.shape[-2]
    width, height = augmentation.patch
    turns = int(rng.integers(4)) if augmentation.rotations else 0
    if turns % 2 and (height > columns or width > rows):  # the patch does not fit when turned by 90 degrees
        turns -= 1
    if turns % 2:
        width, height = height, width
    scale = min(columns / width, rows / height) ** rng.random() if augmentation.scales else 1.0
    crop_w, crop_h = min(columns, round(width * scale)), min(rows, round(height * scale))
    left, top = int(rng.integers(columns - crop_w + 1)), int(rng.integers(rows - crop_h + 1))
    patch = F.crop(scene, top, left, crop_h, crop_w)
    if (crop_w, crop_h) != (width, height):
        patch = F.resize(patch, [height, width], antialias=True)
    if augmentation.flips:
        patch = F.horizontal_flip(patch) if rng.random() < 0.5 else patch
        patch = F.vertical_flip(patch) if rng.random() < 0.5 else patch
    return torch.rot90(patch, turns, (-2, -1))


def _darkened(patch: Tensor, augmentation: Augmentation, rng: np.random.Generator, camera: Camera = DARK) -> Tensor:
    """Darken a patch (1, 3, h, w); half of all have the format that a microcontroller's camera sends."""
    image = patch[0].permute(1, 2, 0).numpy()
    frame_format = _half_of_the_time(augmentation.frame_format, rng)
    camera = augmentation.camera(camera) if camera is not RETAKE else camera
    return stack_images(darken(image, rng=rng, camera=camera, frame_format=frame_format))


def _half_of_the_time(frame_format: str | None, rng: np.random.Generator) -> str | None:
    return frame_format if rng.random() < 0.5 else None


def _disturbed(pair: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Blend some dark patches with their bright partners: half restored is half as dark. Put others into a format."""
    if augmentation.blend and rng.random() < augmentation.blend:
        dark, bright = pair.float()
        pair = torch.stack([torch.lerp(dark, bright, rng.random()).round().to(torch.uint8), pair[1]])
    share = augmentation.rgb565 + augmentation.yuv422
    if share and (draw := rng.random()) < share:
        convert = FORMATS["rgb565" if draw < augmentation.rgb565 else "yuv422"]
        pair = torch.stack([torch.from_numpy(convert(pair[0].permute(1, 2, 0).numpy())).permute(2, 0, 1), pair[1]])
    if augmentation.jpeg and rng.random() < augmentation.jpeg:
        dark = to_jpeg(pair[0].permute(1, 2, 0).numpy(), int(rng.integers(70, 99)))
        pair = torch.stack([torch.from_numpy(dark).permute(2, 0, 1), pair[1]])
    return pair


class Batches(Sampler[list[int]]):
    """The sample numbers of every step for one of several processes; every number goes to exactly one process.

    Args:
        batch: samples per process and step.
        steps: the steps to run; a resumed training does not start at 0.
        rank: this process.
        world: number of processes.
    """

    def __init__(self, batch: int, steps: range, *, rank: int = 0, world: int = 1) -> None:
        self.batch, self.steps, self.rank, self.world = batch, steps, rank, world

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = (step * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))


def mixup_draw(alpha: float, batch: int, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Return MixUp's partners, a permutation (batch,), and shares from Beta(alpha, alpha), (batch, 1, 1, 1).

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    rng = np.random.default_rng((seed, _MIXUP, step))
    partners = torch.from_numpy(rng.permutation(batch))
    return partners, torch.from_numpy(rng.beta(alpha, alpha, (batch, 1, 1, 1)).astype(np.float32))

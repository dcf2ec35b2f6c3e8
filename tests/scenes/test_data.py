"""Finding pairs, cutting patches, and the promise that a sample depends on seed and number only."""
from __future__ import annotations

import socket
import struct

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from small_panoramas import scene, write_radiance
from small_trainings import write_pairs
from torch.utils.data import DataLoader

from mirnet_torch.cli import UserError
from mirnet_torch.files.images import camera_size
from mirnet_torch.scenes.camera import FORMATS, to_rgb565
from mirnet_torch.scenes.sources import (TRAIN_PHOTOGRAPHS, VAL_PHOTOGRAPHS, Scenes, find_pairs, find_sources,
                                         find_split, photograph, split_share, validation_frames)
from mirnet_torch.training.samples import Augmentation, Batches, Samples, Views, cut_patch, mixup_draw, open_samples

EVERYTHING = Augmentation((16, 12), scales=True, jitter=True, yuv422=0.2, rgb565=0.1, blend=0.2, relight=0.1)


def names(pairs):
    return [pair.name for pair in pairs]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Nine pairs without a split of their own."""
    return find_pairs(write_pairs(tmp_path_factory.mktemp("pairs"), range(9)))


@pytest.mark.parametrize("train, val", [("train", "val"), ("our485", "eval15")])
def test_layouts_with_a_split(tmp_path, train, val):
    write_pairs(tmp_path / train, ["2", "10", "1"])
    write_pairs(tmp_path / val, ["b", "a"], suffixes=(".webp", ".jpg"))
    assert names(find_pairs(tmp_path, "train")) == ["1", "2", "10"]
    assert names(find_pairs(tmp_path, "val")) == names(find_pairs(tmp_path)) == ["a", "b"]
    assert [names(half) for half in find_split(tmp_path)] == [["1", "2", "10"], ["a", "b"]]
    assert find_pairs(tmp_path, "val")[0].low.name == "a.webp"


def test_a_folder_without_a_split_holds_every_tenth_pair_out(tmp_path):
    write_pairs(tmp_path, range(21))
    train, val = find_split(tmp_path)
    assert names(val) == ["9", "19"]
    assert names(train) == [str(number) for number in range(21) if number not in (9, 19)]
    assert names(find_pairs(tmp_path)) == [str(number) for number in range(21)]


def test_half_of_a_layout_counts_as_a_folder_without_a_split(tmp_path):
    write_pairs(tmp_path / "our485", range(3))
    assert [names(half) for half in find_split(tmp_path)] == [["0", "1"], ["2"]]
    assert names(find_pairs(tmp_path)) == ["0", "1", "2"]


def test_other_files_are_no_images(tmp_path):
    write_pairs(tmp_path, range(2))
    for name in (".hidden.png", "Thumbs.db", "notes.txt"):
        (tmp_path / "low" / name).write_text("x")
    assert names(find_pairs(tmp_path)) == ["0", "1"]


def test_all_bad_pairs_are_listed_in_one_error(tmp_path):
    write_pairs(tmp_path / "train", range(8))
    write_pairs(tmp_path / "val", range(2))
    low, high = tmp_path / "train" / "low", tmp_path / "train" / "high"
    (low / "0.png").write_bytes((low / "0.png").read_bytes()[:-600])  # its header is whole
    (high / "1.png").write_bytes(b"no image")
    Image.new("RGB", (9, 7)).save(high / "2.png")
    (low / "3.png").unlink()
    (high / "4.png").unlink()
    write_pairs(tmp_path / "train", ["5"], suffixes=(".bmp", ".png"))
    (tmp_path / "val" / "high" / "1.png").unlink()
    with pytest.raises(UserError) as caught:
        find_split(tmp_path)
    message = str(caught.value)
    assert "\n" not in message and "7 bad images" in message
    for part in (f"{low / '0.png'} is a damaged image", f"{high / '1.png'} is not a readable image",
                 f"{low / '2.png'} is 40x32, but {high / '2.png'} is 9x7", f"{high / '3.png'} has no partner in low/",
                 f"{low / '4.png'} has no partner in high/", f"{low / '5.png'} has the name of 5.bmp",
                 f"{tmp_path / 'val' / 'low' / '1.png'} has no partner in high/"):
        assert part in message


@pytest.mark.parametrize("make, words", [
    (lambda root: root / "missing", "missing is not a folder"),
    (lambda root: root, "has no low/ and high/"),
    (lambda root: (root / "low").mkdir() or (root / "high").mkdir() or root, "has no images in low/ and high/"),
    (lambda root: write_pairs(root, "a"), "has one pair only"),
])
def test_folders_without_training_pairs(tmp_path, make, words):
    with pytest.raises(UserError, match=words):
        find_split(make(tmp_path))


def test_augmentation_keeps_pairs_aligned():
    """An image and its negative are still negatives of each other after any crop, scale, flip and turn."""
    image = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1)
    scene = torch.stack([image, 255 - image])
    patches = [cut_patch(scene, Augmentation((48, 36), scales=True), np.random.default_rng(seed)) for seed in range(40)]
    for patch in patches:
        assert patch.shape == (2, 3, 36, 48)
        assert ((patch[0].int() + patch[1].int()) - 255).abs().max() <= 1  # rounding of the filter
    assert len({patch.numpy().tobytes() for patch in patches}) == 40


def test_flips_and_turns_are_the_eight_symmetries_of_a_square():
    scene = torch.arange(3 * 5 * 5, dtype=torch.uint8).reshape(1, 3, 5, 5)
    seen = {cut_patch(scene, Augmentation((5, 5)), np.random.default_rng(seed)).numpy().tobytes()
            for seed in range(200)}
    assert seen == {turned.rot90(turns, (-2, -1)).numpy().tobytes()
                    for turned in (scene, scene.flip(-1)) for turns in range(4)}


@pytest.mark.parametrize("size", [(160, 120), (200, 120), (160, 300)])
def test_patches_lie_on_their_side_only_where_they_fit(size):
    width, height = size
    scene = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    for seed in range(20):
        for scales in (False, True):
            patch = cut_patch(scene, Augmentation((160, 120), scales=scales), np.random.default_rng(seed))
            assert patch.shape == (2, 3, 120, 160)


def test_scales_reach_from_pixels_to_the_whole_image():
    """On a horizontal ramp the range of a patch tells how much of the width it covers."""
    ramp = torch.arange(256, dtype=torch.uint8).expand(1, 3, 192, 256)

    def widths(**options):
        augmentation = Augmentation((32, 24), rotations=False, **options)
        return [int(np.ptp(cut_patch(ramp, augmentation, np.random.default_rng(seed)).numpy())) for seed in range(100)]

    assert set(widths()) == {31}
    assert min(widths(scales=True)) < 40 and max(widths(scales=True)) > 220


def test_images_beside_pairs_do_not_replace_them(tmp_path):
    write_pairs(tmp_path, range(4))
    for name in ("preview.png", "view.hdr"):
        (tmp_path / name).write_bytes((tmp_path / "low" / "0.png").read_bytes())
    found = find_sources([tmp_path])
    assert [len(source.scenes) for source in found.train] == [3] and len(found.val) == 1


def test_sources_share_the_memory_for_decoded_images(tmp_path):
    """Pairs of 40x32 pixels take 7,680 bytes, photographs half."""
    for name in ("first", "second"):
        write_pairs(tmp_path / name, range(4))
    write_pairs(tmp_path, range(2), size=(40, 32))
    (tmp_path / "high").rename(tmp_path / "photographs")
    found = find_sources([tmp_path / name for name in ("first", "second", "photographs")])
    for limit, kept in ((23_039, [False, False, True]), (30_720, [True, False, True]), (53_760, [True, True, True])):
        opened = open_samples(found, EVERYTHING, seed=0, cache_bytes=limit)
        assert [source.scenes.kept_bytes > 0 for source in opened.sources] == kept


def test_a_sample_depends_on_seed_and_number_only(pairs):
    kept, read = Scenes(pairs, cache_bytes=10 ** 6), Scenes(pairs)
    first = Samples(kept, EVERYTHING, seed=1)
    forward = [first[number] for number in range(30)]
    again = Samples(read, EVERYTHING, seed=1)
    assert all(torch.equal(again[number], forward[number]) for number in reversed(range(30)))
    other = Samples(kept, EVERYTHING, seed=2)
    assert not any(torch.equal(other[number], forward[number]) for number in range(30))
    batches = list(DataLoader(first, batch_sampler=Batches(5, range(6)), num_workers=2))
    assert torch.equal(torch.cat(batches), torch.stack(forward))


def test_every_pass_visits_every_scene_once(pairs):
    samples = Samples(Scenes(pairs), Augmentation((40, 32), flips=False, rotations=False), seed=0)
    scenes = [scene.numpy().tobytes() for scene in samples.scenes]
    passes = [[scenes.index(samples[number].numpy().tobytes()) for number in range(first, first + 9)]
              for first in (0, 9, 18)]
    assert all(sorted(each) == list(range(9)) for each in passes)
    assert passes[0] != passes[1] != passes[2]


def test_jitter_takes_half_of_the_dark_patches_again(pairs):
    """Every other one of these in the format of the board's camera."""
    plain = Samples(Scenes(pairs, cache_bytes=10 ** 6), Augmentation((16, 12)), seed=0)
    jittered = Samples(plain.scenes, Augmentation((16, 12), jitter=True, rgb565=1e-9), seed=0)
    changed = coarse = 0
    for number in range(100):
        ours, theirs = jittered[number], plain[number]
        assert torch.equal(ours[1], theirs[1])
        if not torch.equal(ours[0], theirs[0]):
            changed += 1
            frame = ours[0].permute(1, 2, 0).numpy()
            coarse += np.array_equal(frame, to_rgb565(frame))
    assert 30 <= changed <= 70 and changed / 4 <= coarse <= 3 * changed / 4


def test_relight_makes_a_tenth_of_the_dark_patches_from_bright_ones(pairs):
    """Half of them are normally lit. The same holds for photographs, which have bright images only."""
    plain = Samples(Scenes(pairs, cache_bytes=10 ** 6), Augmentation((16, 12)), seed=0)
    relit = Samples(plain.scenes, Augmentation((16, 12), relight=0.3), seed=0)
    light = []
    for number in range(600):
        (dark, bright), (dark_before, bright_before) = relit[number].float(), plain[number].float()
        assert torch.equal(bright, bright_before)
        if not torch.equal(dark, dark_before):
            light.append(float(dark.mean() / bright.mean()))
    assert 40 <= len(light) <= 80 and 0.2 < min(light) < 0.75
    assert 0.35 * len(light) <= sum(share > 0.93 for share in light) <= 0.85 * len(light)
    photographs = Samples(Scenes(None), Augmentation((160, 120), relight=0.3), seed=0)
    ratios = [float(dark.mean() / bright.mean()) for dark, bright in (photographs[i].float() for i in range(60))]
    assert 1 <= sum(ratio > 0.8 for ratio in ratios) <= 15


def test_blending_moves_a_share_of_the_dark_patches_towards_their_truths(pairs):
    plain = Samples(Scenes(pairs, cache_bytes=10 ** 6), Augmentation((16, 12)), seed=0)
    blended = Samples(plain.scenes, Augmentation((16, 12), blend=0.3), seed=0)
    shares = []
    for number in range(200):
        (dark, bright), (dark_before, bright_before) = blended[number].float(), plain[number].float()
        assert torch.equal(bright, bright_before)
        if not torch.equal(dark, dark_before):
            gap = bright - dark_before
            share = (((dark - dark_before) * gap).sum() / gap.square().sum()).item()
            assert (dark - torch.lerp(dark_before, bright, share)).abs().max() < 0.75
            shares.append(share)
    assert 40 <= len(shares) <= 80 and min(shares) < 0.15 and max(shares) > 0.85


@pytest.mark.parametrize("name", FORMATS)
def test_a_share_of_the_dark_patches_gets_the_format_of_a_camera(pairs, name):
    plain = Samples(Scenes(pairs, cache_bytes=10 ** 6), Augmentation((16, 12)), seed=0)
    coarse = Samples(plain.scenes, Augmentation((16, 12), **{name: 0.3}), seed=0)
    changed = 0
    for number in range(200):
        (dark, bright), (dark_before, bright_before) = coarse[number], plain[number]
        assert torch.equal(bright, bright_before)
        if not torch.equal(dark, dark_before):
            changed += 1
            assert np.array_equal(dark.permute(1, 2, 0).numpy(), FORMATS[name](dark_before.permute(1, 2, 0).numpy()))
    assert 40 <= changed <= 80


def test_scenes_smaller_than_the_patch_are_listed(pairs):
    with pytest.raises(UserError, match=r"9 scenes are smaller than the patch 41x10, .* 0 \(40x32\), 1 \(40x32\)"):
        Samples(Scenes(pairs), Augmentation((41, 10)), seed=0)


def test_processes_share_every_batch_without_overlap():
    whole = list(Batches(6, range(2, 5)))
    halves = [list(Batches(3, range(2, 5), rank=rank, world=2)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*halves)] == whole == [list(range(6 * step, 6 * step + 6))
                                                                 for step in range(2, 5)]


def test_mixup_draws_a_permutation_and_beta_shares():
    partners, shares = mixup_draw(1.2, 4000, seed=0, step=7)
    assert sorted(partners.tolist()) == list(range(4000)) and shares.shape == (4000, 1, 1, 1)
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 1.2 + 1)), rel=0.05)  # of Beta(a, a)
    assert torch.equal(mixup_draw(1.2, 4000, seed=0, step=7)[1], shares)
    assert not torch.equal(mixup_draw(1.2, 4000, seed=0, step=8)[1], shares)


def test_the_embedded_photographs_need_no_network(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    assert not set(TRAIN_PHOTOGRAPHS) & set(VAL_PHOTOGRAPHS)
    samples = Samples(Scenes(None), Augmentation((48, 36), scales=True), seed=0)
    assert len(samples) == 32 * len(TRAIN_PHOTOGRAPHS)
    dark, bright = torch.stack([samples[number] for number in range(12)]).float().mean((0, 2, 3, 4))
    assert dark < bright / 2
    frames = list(validation_frames(None, (40, 30)))
    assert len(frames) == 3 * len(VAL_PHOTOGRAPHS) and len({low.tobytes() for _, low, _ in frames}) == len(frames)
    for _, low, high in frames:
        assert low.shape == high.shape == (30, 40, 3) and low.mean() < high.mean() / 2
    assert np.array_equal(frames[0][2], camera_size(photograph(VAL_PHOTOGRAPHS[0]), (40, 30)))


def test_validation_frames_are_the_files_whole_or_at_camera_size(pairs):
    for size, expected in ((None, (32, 40, 3)), ((20, 15), (15, 20, 3))):
        frames = list(validation_frames(pairs, size))
        assert [name for name, _, _ in frames] == names(pairs)
        assert all(low.shape == high.shape == expected for _, low, high in frames)
    assert np.array_equal(next(validation_frames(pairs, None))[1], np.asarray(Image.open(pairs[0].low)))


@pytest.fixture(scope="module")
def folders(pairs, tmp_path_factory):
    """Pairs, photographs and panoramas, each in a folder of its own; names that begin with a dot are no files."""
    root = tmp_path_factory.mktemp("sources")
    for number in range(4):
        write_radiance(root / f"{number}.hdr", scene(32, seed=number))
    photographs = tmp_path_factory.mktemp("photographs")
    for number in range(3):
        Image.fromarray(skimage.data.coffee()[100 * number:][:64, :80]).save(photographs / f"{number}.png")
    (photographs / ".hidden.png").write_bytes(b"")
    return pairs[0].low.parent.parent, photographs, root


def test_folders_are_mixed_in_their_shares(folders):
    sources = find_sources([f"{folder}:{share}" for folder, share in zip(folders, (3, 2, 1))])
    assert [(len(source.scenes), source.share) for source in sources.train] == [(9 - 1, 3), (3, 2), (3, 1)]
    assert names(sources.val) == ["8"] and sources.name == ", ".join(folder.name for folder in folders)
    mixed = open_samples(sources, EVERYTHING, seed=0)
    assert len(mixed) == 16 and mixed.scene_count == 14  # until the eight pairs are seen
    taken = [mixed[number] for number in range(60)]
    assert all(sample.shape == (2, 3, 12, 16) and sample.dtype == torch.uint8 for sample in taken)
    ours = [[source[number] for number in range(count)] for source, count in zip(mixed.sources, (30, 20, 10))]
    for source in ours:  # each gives its samples in its own order, none left out
        places = [number for number, sample in enumerate(taken) for theirs in source if torch.equal(sample, theirs)]
        assert places == sorted(places) and len(places) == len(source)
    for start in range(0, 60, 6):  # and evenly
        places = [sum(any(torch.equal(sample, theirs) for theirs in source) for sample in taken[start:start + 6])
                  for source in ours]
        assert places == [3, 2, 1]


def test_views_depend_on_seed_and_number_only(folders):
    def opened(seed):
        return open_samples(find_sources([folders[2]]), EVERYTHING, seed=seed)
    first, again, other = opened(1), opened(1), opened(2)
    assert isinstance(first, Views) and len(first) == 3 * 32
    forward = [first[number] for number in range(20)]
    assert all(torch.equal(again[number], forward[number]) for number in reversed(range(20)))
    assert not any(torch.equal(other[number], forward[number]) for number in range(20))
    dark, bright = torch.stack(forward).float().mean((0, 2, 3, 4))
    assert dark < bright / 2


def test_photographs_are_darkened_afresh_at_every_visit(folders):
    augmentation = Augmentation((80, 64), flips=False, rotations=False)
    samples = open_samples(find_sources([folders[1]]), augmentation, seed=0)
    visits = [samples[number] for number in range(9)]
    assert len({dark.numpy().tobytes() for dark, _ in visits}) == 9
    assert len({bright.numpy().tobytes() for _, bright in visits}) == 3


def test_without_folders_the_embedded_photographs_are_the_source():
    sources = find_sources([])
    assert [source.scenes for source in sources.train] == [None] and sources.val is None
    assert len(open_samples(sources, EVERYTHING, seed=0)) == 32 * len(TRAIN_PHOTOGRAPHS)


def test_bad_photographs_are_listed_in_one_error(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="3 bad images, fix or remove them: .*a.png is not a readable image") as caught:
        find_sources([tmp_path])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given, expected", [("a/b:3", ("a/b", 3)), ("a/b", ("a/b", 1)), ("C:/x", ("C:/x", 1))])
def test_shares_follow_a_colon(given, expected):
    folder, share = split_share(given)
    assert (folder.as_posix(), share) == expected


@pytest.mark.parametrize("given", ["a:0", "a:1001"])
def test_bad_shares_get_one_line(given):
    with pytest.raises(UserError, match="a share must be a whole number from 1 to 1000"):
        split_share(given)


@pytest.mark.parametrize("kind, value", [(2, b"abc\0"), (7, b"abcd"), (5, b"\x08\0\0\0")], ids=["text", "bytes", "far"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damaged_exif_is_ignored(tmp_path, kind, value, suffix):
    """EXIF whose orientation is no number, or is said to be where the file holds something else."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, kind, len(value), value, 0)
    write_pairs(tmp_path, range(2))
    for side in ("low", "high"):
        image = Image.open(tmp_path / side / "0.png").copy()
        (tmp_path / side / "0.png").unlink()
        image.save(tmp_path / side / f"0{suffix}", exif=exif)
    scenes = Scenes(find_pairs(tmp_path))
    assert scenes.sizes == [(scene.shape[-1], scene.shape[-2]) for scene in scenes] == [(40, 32), (40, 32)]

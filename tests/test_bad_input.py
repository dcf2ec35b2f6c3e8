"""Bad input to load_model, enhance and evaluate: one clear line that names the thing, no traceback, nothing lost.

Bad input to `train` is tested in test_train.py.
"""
from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib

import pytest
import safetensors.torch
import torch
from commands import assert_one_error, run
from golden import filled
from PIL import Image
from skimage import data

from mirnet_torch import PRESETS, CheckpointError, MIRNet, MIRNetConfig, create_model, load_model, save_model
from mirnet_torch.checkpoint import FORMAT
from mirnet_torch.enhance import main as enhance_main
from mirnet_torch.evaluate import main as evaluate_main

CONFIG = MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1)
SHARED = "body.0.body.0.blocks.0.1.body.0.weight"  # the row of a DAU's second use
PHOTO = data.astronaut()[:48, 200:264] // 4


def rows_of(config=CONFIG):
    return {name: row.clone() for name, row in filled(MIRNet(config)).state_dict().items()}


def saved(content, *, zipped=True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def changed(**rows) -> bytes:
    return saved({"state_dict": rows_of() | {name.replace("__", "."): row for name, row in rows.items()}})


def own_file(config=None, **rows) -> bytes:
    """A `.safetensors` as this project writes it, with something wrong in it."""
    header = {"config": CONFIG.to_dict() if config is None else config, "notes": {}}
    return safetensors.torch.save(rows_of() | rows, {FORMAT: json.dumps(header)})


class Hostile:
    """A pickle that makes a folder when it is executed."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def zip_of(**members) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def without(*names) -> dict:
    return {name: row for name, row in rows_of().items() if name not in names}


# name: (content, words of the error)
CHECKPOINTS = {
    "empty.pth": (lambda: b"", ["not a checkpoint, or damaged"]),
    "text.pth": (lambda: b"these are no weights\n" * 50, ["not a checkpoint, or damaged"]),
    "json.safetensors": (lambda: b'{"conv_in.weight": [1, 2, 3]}', ["not a checkpoint, or damaged"]),
    "html.pth": (lambda: b"<!DOCTYPE html><html>404</html>", ["not a checkpoint, or damaged"]),
    "image.pth": (lambda: png(), ["not a checkpoint, or damaged"]),
    "truncated.pth": (lambda: saved(rows_of())[:-3000], ["damaged"]),
    "start of a zip.pth": (lambda: saved(rows_of())[:100], ["damaged"]),
    "truncated old.pth": (lambda: saved(rows_of(), zipped=False)[:-3000], ["damaged"]),
    "start of old.pth": (lambda: saved(rows_of(), zipped=False)[:40], ["damaged"]),
    "truncated.safetensors": (lambda: own_file()[:-3000], ["damaged"]),
    "start.safetensors": (lambda: own_file()[:60], ["damaged"]),
    "long header.safetensors": (lambda: struct.pack("<Q", 2 ** 60) + own_file()[8:], ["damaged"]),
    "header of noise.safetensors": (lambda: struct.pack("<Q", 64) + b"{" + b"\xff" * 63, ["damaged"]),
    "truncated plain.safetensors": (lambda: safetensors.torch.save(rows_of())[:-3000], ["damaged"]),
    "other zip.pth": (lambda: zip_of(readme="a zip of something else"), ["not a checkpoint, or damaged"]),
    "list.pth": (lambda: saved([1, 2, 3]), ["no state dict"]),
    "number.pth": (lambda: saved({"epoch": 3}), ["no state dict"]),
    "empty state.pth": (lambda: saved({"state_dict": {}}), ["no state dict"]),
    "tensor.pth": (lambda: saved(torch.zeros(3)), ["no state dict"]),
    "optimizer.pth": (lambda: saved({"state_dict": {"conv_in.weight": 3}}), ["no state dict", "conv_in.weight"]),
    "numbered rows.pth": (lambda: saved({0: torch.zeros(1)}), ["no state dict"]),
    "other network.pth": (lambda: saved({"layer1.0.conv1.weight": torch.zeros(4, 4, 3, 3)}),
                          ["another network", "layer1.0.conv1.weight"]),
    "scalar row.pth": (lambda: changed(conv_in__weight=torch.zeros(())), ["another network"]),
    "missing.pth": (lambda: saved(without("conv_out.weight", SHARED)),
                    ["2 rows are missing", "conv_out.weight", SHARED]),
    "missing.safetensors": (lambda: safetensors.torch.save(without("conv_out.weight")),
                            ["1 rows are missing", "conv_out.weight"]),
    "unexpected.pth": (lambda: changed(extra__weight=torch.zeros(1)), ["unexpected", "extra.weight"]),
    "shape.pth": (lambda: changed(conv_out__weight=torch.zeros(3, 9, 3, 3)),
                  ["wrong shape", "conv_out.weight (3, 9, 3, 3) instead of (3, 8, 3, 3)"]),
    "too many channels.pth": (lambda: changed(conv_in__weight=torch.zeros(8, 70, 3, 3)), ["in_channels"]),
    "even kernel.pth": (lambda: changed(conv_in__weight=torch.zeros(8, 3, 4, 4)), ["kernel_size"]),
    "alias.pth": (lambda: changed(**{SHARED.replace(".", "__"): torch.zeros(8, 8, 3, 3)}), ["shares", SHARED]),
    "alias.safetensors": (lambda: own_file(**{SHARED: torch.zeros(8, 8, 3, 3)}), ["shares", SHARED]),
    "nan.pth": (lambda: changed(conv_out__weight=torch.full((3, 8, 3, 3), torch.nan)),
                ["not finite", "conv_out.weight"]),
    "infinite.safetensors": (lambda: own_file(**{"conv_out.weight": torch.full((3, 8, 3, 3), torch.inf)}),
                             ["not finite", "conv_out.weight"]),
    "integers.pth": (lambda: changed(conv_out__weight=torch.zeros(3, 8, 3, 3, dtype=torch.int32)),
                     ["not floating point", "conv_out.weight"]),
    "complex.pth": (lambda: changed(conv_out__weight=torch.zeros(3, 8, 3, 3, dtype=torch.complex64)),
                    ["not floating point", "conv_out.weight"]),
    "float8.pth": (lambda: changed(conv_out__weight=torch.zeros(3, 8, 3, 3, dtype=torch.float8_e4m3fn)),
                   ["not floating point of 16, 32 or 64 bits", "conv_out.weight"]),
    "float8.safetensors": (lambda: own_file(**{"conv_out.weight": torch.zeros(3, 8, 3, 3, dtype=torch.float8_e5m2)}),
                           ["not floating point of 16, 32 or 64 bits", "conv_out.weight"]),
    "meta.pth": (lambda: changed(conv_out__weight=torch.zeros(3, 8, 3, 3, device="meta")),
                 ["no plain numbers", "conv_out.weight"]),
    "nested.pth": (lambda: changed(conv_out__weight=torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])),
                   ["no plain numbers", "conv_out.weight"]),
    "cut to 60 kB.pth": (lambda: saved(rows_of())[:60_000], ["not a checkpoint, or damaged"]),
    "cut to 40 kB.pth": (lambda: saved(rows_of())[:40_000], ["not a checkpoint, or damaged"]),
    "cut to 5 kB.pth": (lambda: saved(rows_of())[:5_000], ["not a checkpoint, or damaged"]),
    "deep config.safetensors": (lambda: safetensors.torch.save(rows_of(), {FORMAT: "[" * 100_000}),
                                ["no readable configuration"]),
    "lists for numbers.safetensors": (lambda: own_file(CONFIG.to_dict() | {"n_feat": [[8]]}), ["n_feat"]),
    "a list for the kind.safetensors": (lambda: own_file(CONFIG.to_dict() | {"network": ["mirnet"]}), ["mirnet"]),
    "lists in lists.pth": (lambda: saved({"config": {"network": "compact", "head": "curve", "widths": [[8], {}]},
                                          "state_dict": rows_of()}), ["widths"]),
    "sparse.pth": (lambda: changed(conv_out__weight=torch.zeros(3, 8, 3, 3).to_sparse()),
                   ["not dense", "conv_out.weight"]),
    "huge row number.pth": (lambda: changed(**{"body__" + "9" * 30 + "__weight": torch.zeros(1)}), ["n_RRG"]),
    "absurd config.safetensors": (lambda: own_file(CONFIG.to_dict() | {"n_feat": 10 ** 9}), ["n_feat"]),
    "many groups.safetensors": (lambda: own_file(CONFIG.to_dict() | {"n_RRG": 64, "n_MSRB": 64, "height": 6}),
                                ["too few"]),
    "words for numbers.safetensors": (lambda: own_file(CONFIG.to_dict() | {"n_feat": "many"}), ["n_feat"]),
    "unknown field.safetensors": (lambda: own_file(CONFIG.to_dict() | {"depth": 3}), ["depth"]),
    "config of a list.safetensors": (lambda: own_file([1, 2]), ["no readable configuration"]),
    "config of another network.safetensors": (lambda: own_file(PRESETS["mcu"].to_dict()), ["missing"]),
    "config of text.pth": (lambda: saved({"config": "paper", "state_dict": rows_of()}), ["configuration"]),
    "no config.safetensors": (lambda: safetensors.torch.save(rows_of(), {FORMAT: "{}"}),
                              ["no readable configuration"]),
    "config of noise.safetensors": (lambda: safetensors.torch.save(rows_of(), {FORMAT: "[[["}),
                                    ["no readable configuration"]),
}


def png(image=PHOTO, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bad_checkpoint(tmp_path, capsys, name):
    content, words = CHECKPOINTS[name]
    path = tmp_path / name
    path.write_bytes(content())
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 1500, message
    for word in words:
        assert word in message
    assert path.read_bytes() == before


@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"state_dict": {"conv_in.weight": bad}},
                                  lambda bad: rows_of() | {"bad": bad}], ids=["bare", "nested", "beside the weights"])
@pytest.mark.parametrize("writer", [
    saved, lambda content: saved(content, zipped=False), pickle.dumps, lambda content: pickle.dumps(content, 4),
    lambda content: pickle.dumps(content, 0)], ids=["zip", "old", "pickle", "protocol 4", "protocol 0"])
def test_a_hostile_pickle_is_not_executed(tmp_path, wrap, writer):
    path = tmp_path / "hostile.pth"
    path.write_bytes(writer(wrap(Hostile(tmp_path / "made by the pickle"))))
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["hostile.pth"]


def test_the_hostile_pickle_would_work(tmp_path):
    pickle.loads(pickle.dumps(Hostile(tmp_path / "made by the pickle")))
    assert (tmp_path / "made by the pickle").is_dir()


@pytest.mark.parametrize("given, words", [
    ("folder", ["is a folder"]), ("folder/none.pth", ["does not exist", "mcu"]), ("folder/file/x.pth", ["x.pth"])])
def test_checkpoint_that_is_no_file(tmp_path, given, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / given)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_checkpoint_without_permission(capsys, tmp_path, network):
    (tmp_path / "secret.pth").touch(mode=0)
    result = run(capsys, enhance_main, "x.png", "--out", tmp_path / "out", "--checkpoint", tmp_path / "secret.pth")
    assert_one_error(result.status, result.err, "secret.pth")


@pytest.mark.parametrize("main, options", [
    (enhance_main, ["{photo}", "--out", "{out}"]), (evaluate_main, ["--data", "{pairs}"])], ids=["enhance", "evaluate"])
@pytest.mark.parametrize("checkpoint", ["none.pth", "text.pth", "."])
def test_commands_name_the_bad_checkpoint(capsys, files, main, options, checkpoint):
    (files / "text.pth").write_text("no weights")
    options = [option.format(photo=files / "photo.png", out=files / "out", pairs=files / "pairs") for option in options]
    result = run(capsys, main, *options, "--checkpoint", files / checkpoint)
    assert_one_error(result.status, result.err, str(files / checkpoint))
    assert not (files / "out").exists()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "mcu.safetensors"
    save_model(filled(create_model("mcu")), path)
    return path


@pytest.fixture
def files(tmp_path):
    """A photograph, and a folder of one pair."""
    for name in ("photo.png", "pairs/low/1.png", "pairs/high/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    return tmp_path


def giant_png() -> bytes:
    """A PNG of a few bytes that says it has 60000 x 60000 pixels."""
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
            + chunk(b"IEND", b""))


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(data.astronaut()).save(stream, "JPEG")
    return stream.getvalue()


IMAGES = {
    "text.png": (lambda: b"no picture", ["is not a readable image"]),
    "empty.png": (lambda: b"", ["is not a readable image (the file is empty)"]),
    "truncated.png": (lambda: png(data.astronaut())[:2000], ["damaged"]),
    "truncated.jpg": (lambda: jpeg()[:2000], ["damaged"]),
    "head only.png": (lambda: png()[:20], []),
    "giant.png": (giant_png, ["more pixels"]),
    "drawing.svg": (lambda: b"<svg/>", ["is not a readable image (readable: .png"]),
    "no suffix": (png, [".png"]),
    "photo.gif": (png, ["does not end in .png", "rename it"]),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_bad_image_is_named_and_the_others_are_done(capsys, files, network, name):
    content, words = IMAGES[name]
    (files / name).write_bytes(content())
    options = ["--checkpoint", network, "--out", files / "out"]
    alone = run(capsys, enhance_main, files / name, *options)
    assert_one_error(alone.status, alone.err, str(files / name), *words)
    assert not os.listdir(files / "out")
    among = run(capsys, enhance_main, files / name, files / "photo.png", files / "missing.png", *options)
    assert_one_error(among.status, among.err, "2 of 3 inputs")
    assert str(files / name) in among.err and "missing.png does not exist" in among.err
    assert os.listdir(files / "out") == ["photo.png"]
    assert (files / name).read_bytes() == content()


@pytest.mark.parametrize("arguments, words", [
    (["{files}/none.png", "--out", "{files}/out"], ["none.png does not exist"]),
    (["{files}/void", "--out", "{files}/out"], ["void is a folder without images"]),
    (["{files}/photo.png", "--out", "{files}/photo.png"], ["photo.png"]),
    (["{files}/photo.png", "--out", "{files}/photo.png/out"], ["photo.png/out"]),
    (["{files}/photo.png", "--out", "{files}/bright.JPG"], ["bright.JPG names an image", "give a folder"]),
    (["{files}/photo.png", "--out", "/proc/out"], ["/proc/out"]),
    (["{files}/photo.png", "--out", "{files}/" + 300 * "x"], ["xxx"]),
    (["{files}/photo.png", "--out", "{files}/out", "--tile", "-1"], ["--tile", "-1"]),
    (["{files}/photo.png", "--out", "{files}/out", "--tile", "many"], ["--tile", "many"]),
    (["{files}/photo.png", "--out", "{files}/out", "--tile", "7"], ["photo.png", "tile", "20"]),
    (["{files}/photo.png", "--out", "{files}/out", "--overlap", "-3"], ["--overlap", "-3"]),
    (["{files}/photo.png", "--out", "{files}/out", "--tile", "40", "--overlap", "21"], ["--overlap", "20"]),
    (["{files}/photo.png", "--out", "{files}/out", "--device", "abacus"], ["abacus"]),
    (["{files}/photo.png", "--out", "{files}/out", "--device", "cuda:77"], ["cuda:77"]),
    (["{files}/photo.png", "--out", "{files}/out", "--sharpen"], ["--sharpen"]),
    (["{files}/photo.png"], ["--out"]),
    (["--out", "{files}/out"], ["INPUT"]),
])
def test_bad_arguments_of_enhance(capsys, files, network, arguments, words):
    (files / "void").mkdir()
    before = (files / "photo.png").read_bytes()
    result = run(capsys, enhance_main, *(each.format(files=files) for each in arguments), "--checkpoint", network)
    assert_one_error(result.status, result.err, *words)
    assert (files / "photo.png").read_bytes() == before
    assert not (files / "out").is_dir() or not os.listdir(files / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_out_without_permission(capsys, files, network):
    (files / "out").mkdir(mode=0o500)
    result = run(capsys, enhance_main, files / "photo.png", "--out", files / "out", "--checkpoint", network)
    assert_one_error(result.status, result.err, "out")


@pytest.mark.parametrize("arguments, words", [
    (["--data", "{files}/none"], ["none"]),
    (["--data", "{files}/photo.png"], ["photo.png"]),
    (["--data", "{files}/void"], ["void", "low"]),
    (["--data", "{files}/pairs", "--size", "160"], ["--size", "'160'"]),
    (["--data", "{files}/pairs", "--size", "0x120"], ["--size", "0x120"]),
    (["--data", "{files}/pairs", "--size", "160x-120"], ["--size", "160x-120"]),
    (["--data", "{files}/pairs", "--size", "axb"], ["--size", "axb"]),
    (["--data", "{files}/pairs", "--size", "99999999x1"], ["--size", "99999999x1"]),
    (["--data", "{files}/pairs", "--split", "test"], ["--split", "test"]),
    (["--data", "{files}/pairs", "--tile", "40", "--overlap", "21"], ["--overlap", "20"]),
    (["--data", "{files}/pairs", "--out", "{files}/photo.png"], ["photo.png"]),
    (["--data", "{files}/pairs", "--out", "/proc/out"], ["/proc/out"]),
    (["--data", ""], ["--data", "the name is empty"]),
    (["--data", "{files}/pairs", "--device", "abacus"], ["abacus"]),
    (["--data", "{files}/pairs", "--device=--"], ["argument --device", "expected one argument"]),
])
def test_bad_arguments_of_evaluate(capsys, files, network, arguments, words):
    (files / "void").mkdir()
    result = run(capsys, evaluate_main, *(each.format(files=files) for each in arguments), "--checkpoint", network)
    assert_one_error(result.status, result.err, *words)


@pytest.mark.parametrize("name, content, words", [
    ("low/1.png", b"no picture", ["low/1.png", "is not a readable image"]),
    ("high/1.png", png(data.astronaut())[:2000], ["high/1.png", "damaged"]),
    ("high/1.png", png(PHOTO[1:]), ["high/1.png", "64x47"]),
    ("high/1.png", None, ["low/1.png", "no partner"]),
    ("low/2.png", png(), ["low/2.png", "no partner"]),
    ("low/1.png", b"", ["low/1.png"]),
], ids=["text", "truncated", "sizes differ", "no partner", "one too many", "empty"])
def test_bad_pairs_are_named(capsys, files, network, name, content, words):
    if content is None:
        (files / "pairs" / name).unlink()
    else:
        (files / "pairs" / name).write_bytes(content)
    result = run(capsys, evaluate_main, "--data", files / "pairs", "--checkpoint", network, "--out", files / "out")
    assert_one_error(result.status, result.err, *words)
    assert not os.listdir(files / "out")


def test_a_grey_network_cannot_be_evaluated(capsys, files):
    config = MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1, height=1, in_channels=1, out_channels=1)
    save_model(MIRNet(config), files / "grey.safetensors")
    result = run(capsys, evaluate_main, "--data", files / "pairs", "--checkpoint", files / "grey.safetensors")
    assert_one_error(result.status, result.err, "RGB", "1 channels")


def test_a_network_of_other_channels_names_the_image(capsys, files):
    config = MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1, height=1, in_channels=4, out_channels=4)
    save_model(MIRNet(config), files / "four.safetensors")
    result = run(capsys, enhance_main, files / "photo.png", "--checkpoint", files / "four.safetensors",
                 "--out", files / "out")
    assert_one_error(result.status, result.err, "photo.png", "4 channels")


def test_output_that_is_not_finite_is_named(capsys, files):
    model = create_model("mcu")
    torch.nn.init.constant_(model.conv_out.bias, 1e30)  # exp overflows
    save_model(model, files / "wild.safetensors")
    result = run(capsys, enhance_main, files / "photo.png", "--checkpoint", files / "wild.safetensors",
                 "--out", files / "out")
    assert_one_error(result.status, result.err, "photo.png", "not finite")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_standard_output_on_a_full_disk(files, network):
    command = [sys.executable, "-m", "mirnet_torch.enhance", files / "photo.png", "--out", files / "out",
               "--checkpoint", network]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert_one_error(done.returncode, done.stderr, "No space left")
    assert os.listdir(files / "out") == ["photo.png"]

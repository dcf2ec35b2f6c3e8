"""Video files: frames, times, rotation, colours and sound come through; damage is one line and leaves nothing."""
from __future__ import annotations

import os
import resource
from fractions import Fraction

import av
import numpy as np
import pytest
from commands import assert_one_error, run
from golden import filled
from PIL import Image
from skimage import data

from mirnet_torch import CompactMIRNet, MIRNet, MIRNetConfig, save_model
from mirnet_torch.cli import UserError
from mirnet_torch.enhance import main
from mirnet_torch.files.video import convert_video

SCENE = np.asarray(Image.fromarray(data.coffee()).resize((96, 64)))
TURNED = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()  # by 90 degrees, clockwise


def write_video(path, frames, *, times=None, rate=Fraction(30000, 1001), sound=None, pix_fmt="yuv420p",
                faststart=False):
    """Write frames at their times, in ticks of 1 / rate; `sound` names a codec for half a second of a tone."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        container.metadata["title"] = "a night"
        stream = container.add_stream("libx264", rate=rate, options={"crf": "5"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = pix_fmt, 1 / rate
        audio = container.add_stream(sound, rate=48000) if sound else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio:
            tone = (8000 * np.sin(np.arange(24000) / 20)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def read_video(path):
    """Return frames as RGB (converted by the formula of BT.709) and their times in seconds, independently."""
    frames, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            y, u, v = (plane.astype(float) for plane in planes(frame))
            y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
            rgb = np.stack([y + 1.5748 * v, y - 0.1873 * u - 0.4681 * v, y + 1.8556 * u], -1)
            frames.append((255 * rgb).clip(0, 255))
            times.append(frame.time)
    return frames, times


def planes(frame):
    for plane in frame.planes:
        whole = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, :plane.width]
        yield whole.repeat(-(-frame.height // plane.height), 0).repeat(-(-frame.width // plane.width), 1)


def packets_of_sound(path):
    with av.open(str(path)) as container:
        return [(bytes(packet), round(float(packet.pts * packet.time_base), 3))
                for packet in container.demux(audio=0) if packet.size]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "mcu.safetensors"
    save_model(filled(CompactMIRNet()), path)
    return path


def moving(count, scene=SCENE):
    return [np.roll(scene, 2 * number, 1) for number in range(count)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_pictures_times_sound_and_title_are_kept(tmp_path, suffix):
    times = [0, 1, 2, 5, 6, 10, 11, 12]  # a variable frame rate
    source = write_video(tmp_path / "a.mp4", moving(8), times=times, sound="aac")
    seen = []
    assert convert_video(source, tmp_path / f"b{suffix}", lambda frame: seen.append(frame) or 255 - frame) == 8
    with av.open(str(source)) as before, av.open(str(tmp_path / f"b{suffix}")) as after:
        assert after.streams.video[0].codec_context.name == "h264" and after.metadata["title"] == "a night"
        assert len(after.streams.audio) == len(before.streams.audio) == 1
        wanted = [frame.time for frame in before.decode(video=0)]
    frames, got = read_video(tmp_path / f"b{suffix}")
    np.testing.assert_allclose(np.diff(got), np.diff(wanted), atol=0.0011)  # Matroska counts milliseconds
    assert all(frame.shape == SCENE.shape and frame.dtype == np.uint8 for frame in seen)
    for frame, given, scene in zip(frames, seen, moving(8)):
        assert np.abs(given.astype(int) - scene).mean() < 6 and np.abs(frame - (255.0 - given)).mean() < 6
    sound, kept = packets_of_sound(source), packets_of_sound(tmp_path / f"b{suffix}")
    assert [data for data, _ in sound] == [data for data, _ in kept]
    shift = np.array([time for _, time in kept]) - [time for _, time in sound]
    np.testing.assert_allclose(shift, got[0] - wanted[0], atol=0.002)  # sound and pictures move together


@pytest.mark.parametrize("colour", [(200, 30, 30), (30, 200, 30), (30, 30, 200), (128, 128, 128), (255, 255, 255)])
def test_colours_are_kept(tmp_path, colour):
    """The source has BT.601 and no mark, as small videos do; the result is read by the formula of BT.709."""
    source = write_video(tmp_path / "a.mp4", [np.full((64, 64, 3), colour, np.uint8)] * 2)
    seen = []
    convert_video(source, tmp_path / "b.mp4", lambda frame: seen.append(frame) or frame)
    for given in (seen[0], read_video(tmp_path / "b.mp4")[0][0]):
        assert np.abs(given.mean((0, 1)) - colour).max() < 4
    with av.open(str(tmp_path / "b.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)


def test_the_result_is_upright(tmp_path):
    source = write_video(tmp_path / "a.mp4", moving(3))
    content = bytearray(source.read_bytes())
    place = content.index(b"tkhd") + 44
    content[place:place + 36] = TURNED
    source.write_bytes(content)
    convert_video(source, tmp_path / "b.mp4", lambda frame: frame)
    frames, _ = read_video(tmp_path / "b.mp4")
    assert frames[0].shape == (96, 64, 3)
    assert np.abs(frames[0] - np.rot90(SCENE, -1)).mean() < 6 < np.abs(frames[0] - np.rot90(SCENE, 1)).mean()


@pytest.mark.parametrize("height, width", [(64, 95), (63, 96), (33, 47)])
def test_odd_sizes_are_kept(tmp_path, height, width):
    source = write_video(tmp_path / "a.mp4", [frame[:height, :width] for frame in moving(2)], pix_fmt="yuv444p")
    convert_video(source, tmp_path / "b.mp4", lambda frame: frame)
    frames, _ = read_video(tmp_path / "b.mp4")
    assert frames[0].shape == (height, width, 3) and np.abs(frames[0] - SCENE[:height, :width]).mean() < 6


def test_command(capsys, checkpoint, tmp_path):
    source = write_video(tmp_path / "night.mp4", [frame // 4 for frame in moving(4)])
    options = ("--checkpoint", checkpoint)
    for name, exposure in (("plain.mp4", 0), ("bright.mp4", 2)):
        result = run(capsys, main, source, "--out", tmp_path / "new" / name, *options, "--exposure", exposure)
        assert (result.status, result.err) == (0, "") and "4 frames enhanced into" in result.out
    plain, bright = (np.mean(read_video(tmp_path / "new" / name)[0]) for name in ("plain.mp4", "bright.mp4"))
    assert bright > 1.3 * plain
    assert sorted(os.listdir(tmp_path / "new")) == ["bright.mp4", "plain.mp4"]
    result = run(capsys, main, source, "--out", tmp_path / "new" / "plain.mp4", *options)
    assert_one_error(result.status, result.err, "plain.mp4 exists", "--overwrite")
    result = run(capsys, main, source, "--out", source, *options, "--overwrite")
    assert_one_error(result.status, result.err, "would replace the input")


def test_the_published_network_enhances_frame_by_frame(capsys, tmp_path):
    save_model(filled(MIRNet(MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1))), tmp_path / "p.safetensors")
    source = write_video(tmp_path / "a.mp4", moving(2))
    result = run(capsys, main, source, "--out", tmp_path / "b.mp4", "--checkpoint", tmp_path / "p.safetensors",
                 "--tile", 32)
    assert (result.status, result.err) == (0, "") and len(read_video(tmp_path / "b.mp4")[0]) == 2


@pytest.mark.parametrize("arguments, words", [
    (("a.mp4", "--out", "folder"), ("a.mp4 is a video", "bright.mp4")),
    (("a.mp4", "photo.png", "--out", "b.mp4"), ("alone",)),
    (("photo.png", "--out", "b.mp4"), ("no input is one",)),
    (("a.mp4", "--out", "b.webm"), ("is a video", ".mkv")),
    (("a.mp4", "--out", "b.mp4", "--compare"), ("--compare",)),
    (("missing.mp4", "--out", "b.mp4"), ("missing.mp4 does not exist",)),
    (("folder.mp4/a.mov", "--out", "b.mp4"), ("does not exist",)),
    (("text.mp4", "--out", "b.mp4"), ("text.mp4 is a damaged video",)),
    (("empty.mkv", "--out", "b.mp4"), ("empty.mkv is a damaged video",)),
    (("sound.mp4", "--out", "b.mp4"), ("sound.mp4 holds no video",)),
    (("no_index.mp4", "--out", "b.mp4"), ("no_index.mp4 is a damaged video",)),
    (("cut.mp4", "--out", "b.mp4"), ("cut.mp4 is a damaged video",)),
    (("bits.mp4", "--out", "b.mp4"), ("bits.mp4 is a damaged video",)),
])
def test_bad_input_is_one_line_and_leaves_nothing(capsys, checkpoint, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3)).astype(np.uint8)
    whole = write_video(tmp_path / "a.mp4", list(noise)).read_bytes()
    front = write_video(tmp_path / "front.mp4", list(noise), faststart=True).read_bytes()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mkv").write_bytes(b"")
    (tmp_path / "no_index.mp4").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "cut.mp4").write_bytes(front[:len(front) // 2])
    place = front.index(b"mdat") + len(front) // 4
    (tmp_path / "bits.mp4").write_bytes(front[:place] + bytes(4000) + front[place + 4000:])
    Image.fromarray(SCENE).save(tmp_path / "photo.png")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    before = sorted(os.listdir(tmp_path))
    result = run(capsys, main, *arguments, "--checkpoint", checkpoint)
    assert_one_error(result.status, result.err, *words)
    assert result.status == 2 and sorted(os.listdir(tmp_path)) == before


def test_sound_that_the_result_cannot_hold_is_named(tmp_path):
    source = write_video(tmp_path / "a.mkv", moving(2), sound="pcm_u8")
    with pytest.raises(UserError, match=r"b.mp4 cannot hold the sound of .*a.mkv \(pcm_u8\): name the result .mkv"):
        convert_video(source, tmp_path / "b.mp4", lambda frame: frame)
    assert os.listdir(tmp_path) == ["a.mkv"]
    assert convert_video(source, tmp_path / "b.mkv", lambda frame: frame) == 2


def test_a_size_that_the_encoder_does_not_take_is_named(capsys, checkpoint, tmp_path):
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16400, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(16400, 16, "yuv420p")))
        container.mux(stream.encode(None))
    result = run(capsys, main, source, "--checkpoint", checkpoint, "--out", tmp_path / "b.mp4")
    assert_one_error(result.status, result.err, "cannot write", "b.mp4", "16400x16")
    assert os.listdir(tmp_path) == ["a.mkv"]


def test_an_existing_result_is_skipped_on_request(capsys, checkpoint, tmp_path):
    source = write_video(tmp_path / "a.mp4", moving(2))
    (tmp_path / "b.mp4").write_text("done before")
    result = run(capsys, main, source, "--checkpoint", checkpoint, "--out", tmp_path / "b.mp4", "--skip-existing")
    assert (result.status, result.err, result.out) == (0, "", f"skipped: {tmp_path / 'b.mp4'} exists\n")
    assert (tmp_path / "b.mp4").read_text() == "done before"
    assert run(capsys, main, source, "--checkpoint", checkpoint, "--out", tmp_path / "c.mp4",
               "--skip-existing").status == 0
    assert (tmp_path / "c.mp4").exists()


def test_hdr_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.color_trc = 18
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match="HDR"):
        convert_video(tmp_path / "a.mp4", tmp_path / "b.mp4", lambda frame: frame)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_one_error_and_leaves_nothing(capsys, checkpoint, tmp_path, suffix):
    """The limit on the size of a file stands in for a full disk: a write ends with an operating system's error."""
    noise = np.random.default_rng(0).integers(0, 255, (30, 64, 96, 3)).astype(np.uint8)
    source = write_video(tmp_path / "a.mp4", list(noise))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        result = run(capsys, main, source, "--checkpoint", checkpoint, "--out", tmp_path / f"b{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_one_error(result.status, result.err, "File too large")
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_an_interrupt_leaves_nothing(tmp_path):
    source = write_video(tmp_path / "a.mp4", moving(4))

    def interrupted(frame):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_video(source, tmp_path / "b.mp4", interrupted)
    assert os.listdir(tmp_path) == ["a.mp4"]

"""Video files: every frame goes through a function, and sound and times stay as they are.

    convert_video("night.mp4", "bright.mp4", lambda frame: enhance(model, frame))

PyAV (the extra `[video]`) reads what FFmpeg reads. Pictures are encoded anew, as H.264 in 8 bits with the colours of
ITU-R BT.709; they are upright, so the result needs no rotation. Every frame keeps its time, so also a variable frame
rate is kept, and the sound is copied as it is. Subtitles are dropped.
"""
from __future__ import annotations

import contextlib
import itertools
import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, cast

import numpy as np

from mirnet_torch.cli import UserError, atomic_path, progress

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".3gp", ".wmv")
_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
WRITTEN_SUFFIXES = tuple(_FORMATS)
QUALITY = {"crf": "18"}  # of x264: the eye sees no loss
BT709, UNKNOWN, LIMITED = 1, 2, 1  # of FFmpeg: AVCOL_SPC_BT709 (also PRI, TRC, SWS_CS), _UNSPECIFIED, AVCOL_RANGE_MPEG
BT601 = 5  # of FFmpeg: SWS_CS_ITU601
HDR_CURVES = (16, 18)  # of FFmpeg: AVCOL_TRC_SMPTE2084 (PQ), AVCOL_TRC_ARIB_STD_B67 (HLG)
KEPT = ("title", "artist", "comment", "creation_time", "location")  # metadata
HD = 720  # rows from which on players take unmarked colours for BT.709


def convert_video(source: str | os.PathLike[str], target: str | os.PathLike[str],
                  restore: Callable[[np.ndarray], np.ndarray]) -> int:
    """Write a video whose frames went through `restore`, whole or not at all.

    Args:
        source: the video.
        target: the result; its suffix is one of `WRITTEN_SUFFIXES`.
        restore: takes and returns an upright frame, uint8 (H, W, 3), RGB; called in the order of the frames.

    Returns:
        The number of frames.

    Raises:
        UserError: the source is missing, damaged, HDR or holds no video, or the result cannot hold it, such as H.264
            of more than 16,384 columns.
        OSError: the disk fails or is full.
    """
    import av
    source, target = Path(source), Path(target)
    with _open(source) as reader:
        video = _video_stream(reader, source)
        items = _decoded(reader, video, source)
        waiting = []  # sound before the first frame: the result's size must be known first
        for item in items:
            waiting.append(item)
            if isinstance(item, av.VideoFrame):
                break
        else:
            raise UserError(f"{source} is a damaged video: none of its frames can be decoded")
        with atomic_path(target) as temporary, open(temporary, "wb") as file:
            # Through a file of Python's, since FFmpeg does not tell all errors of the disk.
            first = cast("VideoFrame", waiting[-1])
            try:
                with av.open(file, "w", format=_FORMATS[target.suffix.lower()]) as writer:
                    _set_up(writer, reader, video, first)
                    return _write(writer, video, itertools.chain(waiting, items), restore,
                                  _copied_sound(writer, reader, source, target))
            except av.FFmpegError as error:
                if isinstance(error, (OSError, MemoryError)):
                    raise
                raise UserError(f"cannot write {target} as H.264 of {first.width}x{first.height}: "
                                f"{error.strerror}") from None


@contextlib.contextmanager
def _open(source: Path) -> Iterator[InputContainer]:
    import av
    try:
        reader = av.open(str(source))
    except FileNotFoundError:
        raise UserError(f"{source} does not exist") from None
    except PermissionError:
        raise UserError(f"cannot read {source}: Permission denied") from None
    except av.FFmpegError as error:
        raise UserError(f"{source} is a damaged video, or none: {error.strerror}") from None
    with reader:
        yield reader


def _video_stream(reader: InputContainer, source: Path) -> VideoStream:
    """Return the stream of pictures; the cover of a recording is none."""
    for stream in reader.streams.video:
        if not stream.disposition.name or "attached_pic" not in stream.disposition.name:
            if stream.codec_context is None:
                raise UserError(f"{source} holds a video of an unknown kind: convert it to H.264 first")
            if stream.codec_context.color_trc in HDR_CURVES:
                raise UserError(f"{source} is an HDR video: convert it to SDR (BT.709) first")
            stream.thread_type = "AUTO"
            return stream
    raise UserError(f"{source} holds no video stream")


def _decoded(reader: InputContainer, video: VideoStream, source: Path) -> Iterator[Packet | VideoFrame]:
    """Yield the frames of the video and the packets of sound, in the order of the file."""
    import av
    try:
        for packet in reader.demux(video, *_sound(reader)):
            if packet.is_corrupt:
                raise UserError(f"{source} is a damaged video: it ends too early")
            if packet.stream is video:
                for frame in cast("list[VideoFrame]", packet.decode()):
                    if frame.is_corrupt:
                        raise UserError(f"{source} is a damaged video: a frame cannot be decoded")
                    yield frame
            elif packet.dts is not None:  # the last packet of a stream is empty
                yield packet
    except av.FFmpegError as error:
        raise UserError(f"{source} is a damaged video: {error.strerror}") from None


def _sound(reader: InputContainer) -> list[Any]:
    return [stream for stream in reader.streams.audio if stream.codec_context is not None]


def _set_up(writer: OutputContainer, reader: InputContainer, video: VideoStream, frame: VideoFrame) -> None:
    """Add the stream of pictures; `frame` is the first that was read."""
    turned = round(frame.rotation / 90) % 2
    aspect = video.sample_aspect_ratio  # of a pixel
    codec = writer.add_stream("libx264", rate=_rate(video), options=QUALITY).codec_context
    codec.width, codec.height = (frame.height, frame.width) if turned else (frame.width, frame.height)
    codec.pix_fmt, codec.time_base = _pixel_format(codec.height, codec.width), _time_base(video)
    codec.colorspace = codec.color_primaries = codec.color_trc = BT709
    codec.color_range = LIMITED
    if aspect:
        codec.sample_aspect_ratio = 1 / aspect if turned else aspect
    writer.metadata.update({key: value for key, value in reader.metadata.items() if key in KEPT})


def _copied_sound(writer: OutputContainer, reader: InputContainer, source: Path, target: Path) -> dict[int, Any]:
    """Add the streams of sound; return them by the index of those that they copy."""
    copies = {}
    for stream in _sound(reader):
        try:
            copies[stream.index] = writer.add_stream_from_template(stream)
        except ValueError:
            raise UserError(f"{target} cannot hold the sound of {source} ({stream.codec_context.name}): name the "
                            "result .mkv") from None
    return copies


def _write(writer: OutputContainer, video: VideoStream, items: Iterator[Packet | VideoFrame],
           restore: Callable[[np.ndarray], np.ndarray], copies: dict[int, Any]) -> int:
    """Write frames and sound; return the number of frames."""
    import av
    pictures = writer.streams.video[0]
    step = max(round(1 / (_rate(video) * _time_base(video))), 1)  # between frames without times
    frames, time = 0, -step
    with progress(total=video.frames or None, desc="video", unit="frame") as bar:
        for item in items:
            if not isinstance(item, av.VideoFrame):
                item.stream = copies[item.stream.index]
                writer.mux(item)
                continue
            encoded = _encoded(restore(_upright(item)))
            time = time + step if item.pts is None else max(item.pts, time + 1) if frames else item.pts
            encoded.pts, encoded.time_base, encoded.duration = time, video.time_base, item.duration
            writer.mux(pictures.encode(encoded))
            frames += 1
            bar.update()
        writer.mux(pictures.encode(None))
    return frames


def _rate(video: VideoStream) -> Fraction:
    return video.average_rate or video.guessed_rate or Fraction(25)


def _time_base(video: VideoStream) -> Fraction:
    return video.time_base or Fraction(1, 90000)


def _pixel_format(height: int, width: int) -> str:
    """Return the usual format, or for odd sides one whose colours are not halved."""
    return "yuv444p" if height % 2 or width % 2 else "yuv420p"


def _upright(frame: VideoFrame) -> np.ndarray:
    """Return a frame as uint8 (H, W, 3), RGB."""
    hd = frame.colorspace == BT709 or frame.colorspace == UNKNOWN and frame.height >= HD
    rgb = frame.reformat(format="rgb24", src_colorspace=BT709 if hd else BT601).to_ndarray()
    return np.rot90(rgb, round(frame.rotation / 90))  # both counterclockwise


def _encoded(rgb: np.ndarray) -> VideoFrame:
    """Return a frame for the encoder."""
    import av
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return frame.reformat(format=_pixel_format(*rgb.shape[:2]), dst_colorspace=BT709, dst_color_range=LIMITED)

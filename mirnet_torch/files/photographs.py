"""One photograph from file to file: its pixels, what a file carries beside them, and the file of the result.

Beside the formats of `images`, HEIC is read by pillow-heif (the extra `[heic]`) and camera RAW by rawpy (`[raw]`),
which develops it with the camera's white balance into sRGB. Neither is written: their results are JPEG, unless another
format is asked for.
"""
from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Callable

import numpy as np
from PIL import Image, PngImagePlugin

from mirnet_torch.cli import UserError, require_extra
from mirnet_torch.files.deep_images import DEEP_SUFFIXES, deep_pixels, write_deep
from mirnet_torch.files.images import (HEIC_SUFFIXES, RAW_SUFFIXES, SUFFIXES, is_grey, open_image, require_file,
                                       to_8_bits, to_grey, to_rgb, write_image)

FORMATS = {"jpg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif"}  # `--format` and the suffix of its files
LOSSY = (".jpg", ".jpeg", ".webp")  # have a quality
_XMP, _ORIENTATION = 700, 0x0112  # tags of TIFF and EXIF
_RESOLUTION, _RESOLUTION_DOWN, _UNIT = 0x011A, 0x011B, 0x0128
_SEGMENT = 65_533  # bytes that a segment of JPEG holds
_LONG = 10_000  # bytes; EXIF that is too long for JPEG loses its values beyond this
_FOLDERS = (0x8769, 0x8825, 0xA005)  # tags that hold tags: the exposure, the place, what other programs need


@dataclass
class Photograph:
    """What a file holds, upright."""

    pixels: np.ndarray
    """uint8 or uint16, (H, W, 3), or (H, W) if there is no colour."""
    alpha: np.ndarray | None = None
    """(H, W), of the type of the pixels."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Options of Pillow's `save`: `exif`, `icc_profile`, `dpi`, `xmp`."""
    lossless: bool = False
    """Whether the file was WebP without loss."""


def result_suffix(source: str | os.PathLike[str], chosen: str | None) -> str:
    """Return the suffix of the result: that of the chosen format, else the source's, or .jpg if it is not written."""
    suffix = os.path.splitext(source)[1]
    if chosen is not None:
        return FORMATS[chosen]
    return ".jpg" if suffix.lower() in HEIC_SUFFIXES + RAW_SUFFIXES else suffix


def read_photograph(path: str | os.PathLike[str], *, deep: bool = False,
                    before_decoding: Callable[[tuple[int, int]], None] | None = None) -> Photograph:
    """Read a photograph with 8 bits, or if `deep` with the 8 or 16 that it has.

    `before_decoding` is called with width and height.

    Raises:
        UserError: the file cannot be read, or needs an extra that is not installed.
    """
    if os.path.splitext(path)[1].lower() in RAW_SUFFIXES:
        return _develop(path, deep, before_decoding)
    lossless = [False]

    def opened(image: Image.Image) -> None:
        lossless[0] = image.format == "WEBP" and _is_lossless(path)
        if before_decoding is not None:
            before_decoding(image.size)

    image = open_image(path, before_decoding=opened)
    levels = deep_pixels(image, path) if deep else None
    if levels is None:
        photograph = photograph_of(image)
    elif levels.ndim == 3 and levels.shape[2] == 4:
        photograph = Photograph(levels[..., :3], levels[..., 3], _metadata(image))
    else:
        photograph = Photograph(levels, None, _metadata(image))
    photograph.lossless = lossless[0]
    return photograph


def photograph_of(image: Image.Image) -> Photograph:
    """Return the pixels of a Pillow image with 8 bits, and what it carries."""
    pixels = to_grey(image) if is_grey(image) else to_rgb(image)
    alpha = None
    if image.has_transparency_data and not image.mode.startswith("I"):
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return Photograph(pixels, alpha, _metadata(image))


def picture_of(pixels: np.ndarray, photograph: Photograph) -> Image.Image:
    """Return new pixels, uint8 or grey uint16, as a Pillow image with a photograph's alpha."""
    picture = Image.fromarray(pixels)
    if photograph.alpha is not None:
        picture.putalpha(Image.fromarray(photograph.alpha))
    return picture


def write_photograph(pixels: np.ndarray, photograph: Photograph, path: str | os.PathLike[str], *,
                     quality: int | None = None) -> None:
    """Write new pixels with all that a photograph carries, whole or not at all. JPEG has no alpha.

    TIFF is compressed unless there are tags that Pillow writes only without compression, such as the exposure. EXIF
    that TIFF or JPEG cannot hold is left out.

    Args:
        pixels: as those of the photograph.
        photograph: the one they were made from.
        path: its suffix names the format.
        quality: of JPEG and WebP, 1 to 100; None: 95, or WebP without loss if the photograph was so.

    Raises:
        UserError, OSError: as `write_image`.
    """
    suffix = os.path.splitext(path)[1].lower()
    metadata = dict(photograph.metadata)
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        if suffix in DEEP_SUFFIXES:
            whole = pixels if photograph.alpha is None else np.dstack([pixels, photograph.alpha])
            write_deep(whole, path, **metadata)
            return
        pixels = to_8_bits(pixels)
    picture = Image.fromarray(pixels) if suffix.startswith(".jp") else picture_of(pixels, photograph)
    options: dict[str, Any] = {name: metadata[name] for name in ("exif", "icc_profile", "dpi") if name in metadata}
    xmp = metadata.get("xmp")
    if suffix in (".tif", ".tiff"):
        tags = _tiff_tags(options.pop("exif", b""), xmp)
        try:
            write_image(picture, path, **options, **tags)
        except UserError:  # damaged tags fail in many ways; the picture matters more
            write_image(picture, path, **options)
        return
    if suffix.startswith(".jp") and "exif" in options:
        options["exif"] = _shortened(options["exif"])
    if xmp:
        options |= _xmp_options(xmp, suffix)
    if quality is not None and suffix in LOSSY:
        options["quality"] = quality
    elif suffix == ".webp" and photograph.lossless:
        options |= {"lossless": True, "quality": 75}  # how long to search, not how much to lose
    write_image(picture, path, **options)


def _shortened(exif: bytes) -> bytes:
    """Return EXIF that fits into JPEG: as it is, without long values such as Photoshop's, or none."""
    if len(exif) <= _SEGMENT:
        return exif
    tags = Image.Exif()
    tags.load(exif)
    for tag in [tag for tag, value in tags.items() if isinstance(value, (bytes, str)) and len(value) > _LONG]:
        del tags[tag]
    shorter = tags.tobytes()
    return shorter if len(shorter) <= _SEGMENT else b""


def _xmp_options(xmp: bytes, suffix: str) -> dict[str, Any]:
    if suffix == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        return {"pnginfo": text}
    return {} if suffix == ".bmp" else {"xmp": xmp}


def _tiff_tags(exif: bytes, xmp: bytes | None) -> dict[str, Any]:
    tags = Image.Exif()
    tags.load(exif)
    if xmp:
        tags[_XMP] = xmp
    return {"exif": tags} | ({"compression": "raw"} if any(tag in tags for tag in _FOLDERS) else {})


def _metadata(image: Image.Image) -> dict[str, Any]:
    """Return what an image carries, but a profile of other colours, the orientation and the thumbnail."""
    kept: dict[str, Any] = {}
    profile = image.info.get("icc_profile") or b""
    if profile[16:20] == (b"GRAY" if is_grey(image) else b"RGB "):
        kept["icc_profile"] = profile
    has_resolution = image.info.get("jfif_unit") != 0
    try:
        exif = image.getexif()
        has_resolution = has_resolution or _RESOLUTION in exif
        exif.pop(_ORIENTATION, None)
        resolutions = [exif.get(tag, 1) for tag in (_RESOLUTION, _RESOLUTION_DOWN)]
        if not all(map(_is_resolution, resolutions)) or exif.get(_UNIT, 2) not in (1, 2, 3):
            for tag in (_RESOLUTION, _RESOLUTION_DOWN, _UNIT):  # TIFF cannot be written with it
                exif.pop(tag, None)
        if len(exif):
            kept["exif"] = exif.tobytes()  # rebuilt from the tags, without the thumbnail
    except Exception:  # damaged EXIF fails in many ways; the picture matters more
        pass
    dpi = image.info.get("dpi", ())
    if has_resolution and len(dpi) == 2 and all(map(_is_resolution, dpi)):
        kept["dpi"] = tuple(map(float, dpi))  # JPEG without resolution reads as 72 if it has EXIF
    xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "surrogateescape")
    if isinstance(xmp, bytes) and len(xmp) < 65_000:  # what one segment of JPEG holds
        kept["xmp"] = xmp
    return kept


def _is_resolution(value: Any) -> bool:
    """Return whether a value can be that of a resolution, in pixels an inch or a centimetre."""
    try:
        return 1 <= float(value) < 2 ** 16
    except (TypeError, ValueError, ZeroDivisionError):
        return False


def _is_lossless(path: str | os.PathLike[str]) -> bool:
    """Return whether the first picture of a WebP file is coded without loss."""
    with open(path, "rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            name, size = header[:4], int.from_bytes(header[4:], "little")
            if name in (b"VP8L", b"VP8 "):
                return name == b"VP8L"
            if name == b"ANMF":  # a frame's 16 bytes, then its chunks
                file.seek(16, os.SEEK_CUR)
            else:
                file.seek(size + size % 2, os.SEEK_CUR)
    return False


def _develop(path: str | os.PathLike[str], deep: bool,
             before_decoding: Callable[[tuple[int, int]], None] | None) -> Photograph:
    """Develop a RAW file; EXIF is that of the JPEG inside it."""
    require_extra("raw", f"reading {path}")
    import rawpy

    require_file(path)
    try:
        with rawpy.imread(os.fspath(path)) as raw:
            if before_decoding is not None:
                before_decoding((raw.sizes.width, raw.sizes.height))
            pixels = raw.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=16 if deep else 8)
            metadata = _metadata_of_preview(raw)
    except rawpy.LibRawError as error:
        cause = error.args[0] if error.args else error
        cause = cause.decode() if isinstance(cause, bytes) else cause
        raise UserError(f"{path} is not a RAW file that LibRaw can read: {cause}") from None
    return Photograph(np.ascontiguousarray(pixels), None, metadata)


def _metadata_of_preview(raw: Any) -> dict[str, Any]:
    try:
        preview = raw.extract_thumb()
        with Image.open(io.BytesIO(preview.data), formats=["JPEG"]) as image:
            metadata = _metadata(image)
    except Exception:  # no preview, or another kind; the picture matters more
        return {}
    return {name: metadata[name] for name in ("exif", "xmp") if name in metadata}


def can_read(path: str | os.PathLike[str]) -> bool:
    """Return whether a name is that of a photograph that can be read here, with the extras that are installed."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in SUFFIXES or suffix in HEIC_SUFFIXES and _has("heic") or suffix in RAW_SUFFIXES and _has("raw")


@lru_cache
def _has(extra: str) -> bool:
    try:
        require_extra(extra, "")
    except UserError:
        return False
    return True

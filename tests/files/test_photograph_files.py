"""What a photograph's file carries through `enhance`, the formats in and out, and the memory that a large one takes."""
from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest
from commands import assert_one_error, run
from PIL import Image, PngImagePlugin
from skimage import data

from mirnet_torch import enhance, load_model
from mirnet_torch.enhance import main
from mirnet_torch.files.images import read_image
from mirnet_torch.files.photographs import read_photograph

PHOTO = data.astronaut()[:96, 200:328] // 4
XMP = (b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
       b'syntax-ns#"><rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"/></rdf:RDF>'
       b'</x:xmpmeta><?xpacket end="w"?>')
PHOTOSHOP = 0x8649  # tag of TIFF
EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010F] = 6, "camera maker"


@pytest.fixture(scope="module")
def model():
    return load_model("photo")


def enhanced(capsys, source, *options):
    """Run the command on one file and return the path of the result."""
    result = run(capsys, main, source, "--out", source.parent / "out", *options)
    assert (result.status, result.err) == (0, "")
    path, = (source.parent / "out").iterdir()
    return path


def xmp_text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return text


@pytest.mark.parametrize("name, options", [
    ("a.jpg", {"dpi": (300, 240), "xmp": XMP}), ("a.png", {"dpi": (300, 240), "pnginfo": xmp_text()}),
    ("a.tif", {"dpi": (300, 240), "tiffinfo": {700: XMP}}), ("a.bmp", {"dpi": (300, 240)}),
    ("a.webp", {"xmp": XMP}), ("a.jpg", {"dpi": (300, 240), "exif": EXIF}), ("a.jpg", {"exif": EXIF}), ("a.jpg", {})])
def test_resolution_and_xmp_are_kept(capsys, tmp_path, name, options):
    Image.fromarray(PHOTO).save(tmp_path / name, **options)
    with Image.open(enhanced(capsys, tmp_path / name)) as after:
        after.load()
    if "dpi" in options:
        assert after.info["dpi"] == pytest.approx((300, 240), rel=1e-3)
    else:
        assert after.info.get("jfif_unit", 0) == 0  # no resolution, and none invented
    assert after.info.get("xmp") == (None if name == "a.bmp" or "exif" in options or not options else XMP)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_resolution_and_xmp_are_kept_with_16_bits(capsys, tmp_path, suffix):
    from mirnet_torch.files.deep_images import write_deep
    deep = PHOTO.astype(np.uint16) * 257
    write_deep(deep, tmp_path / f"a{suffix}", dpi=(300, 240), xmp=XMP)
    path = enhanced(capsys, tmp_path / f"a{suffix}")
    with Image.open(path) as after:
        after.load()
    assert after.info["dpi"] == pytest.approx((300, 240), rel=1e-3) and after.info["xmp"] == XMP
    assert read_photograph(path, deep=True).pixels.dtype == np.uint16


def test_tiff_keeps_what_a_camera_writes(capsys, tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif.get_ifd(0x8769)[0x829A], exif.get_ifd(0x8825)[1] = "camera maker", 0.25, "N"
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", exif=exif, dpi=(300, 240), xmp=XMP)
    with Image.open(enhanced(capsys, tmp_path / "a.jpg", "--format", "tiff")) as after:
        tags = after.getexif()
        assert tags[0x010F] == "camera maker" and tags.get_ifd(0x8769)[0x829A] == 0.25
        assert tags.get_ifd(0x8825)[1] == "N" and after.info["xmp"] == XMP and after.info["dpi"] == (300, 240)


def test_a_tag_too_large_for_jpeg_does_not_cost_the_picture(capsys, tmp_path):
    tags = Image.Exif()
    tags[0x010F], tags[PHOTOSHOP] = "camera maker", bytes(100_000)
    Image.fromarray(PHOTO).save(tmp_path / "a.tif", exif=tags)
    with Image.open(enhanced(capsys, tmp_path / "a.tif", "--format", "jpg")) as after:
        assert after.size == (128, 96)
        assert after.getexif()[0x010F] == "camera maker" and PHOTOSHOP not in after.getexif()


def test_exif_of_many_tags_that_jpeg_cannot_hold_is_left_out(capsys, tmp_path):
    tags = Image.Exif()
    tags.update({0xC000 + number: bytes(10_000) for number in range(7)})
    Image.fromarray(PHOTO).save(tmp_path / "a.tif", exif=tags)
    with Image.open(enhanced(capsys, tmp_path / "a.tif", "--format", "jpg")) as after:
        assert after.size == (128, 96) and not after.getexif()


# Tags with values that are none: (tag, type, value)
DAMAGED_TAGS = {
    "resolution of 0": (0x011A, 5, struct.pack("<II", 0, 0)), "infinite resolution": (0x011B, 11, b"\0\0\x80\x7f"),
    "no number": (0x011A, 12, struct.pack("<d", float("nan"))), "resolution in words": (0x011A, 2, b"many\0\0\0\0"),
    "tiny resolution": (0x011A, 11, struct.pack("<f", 1e-30)), "length of a strip": (0x0117, 4, b"\xff\xff\xff\xff"),
    "no samples": (0x0115, 3, b"\0\0\0\0"), "no unit": (0x0128, 3, b"\xff\xff\0\0"),
    "planes in another order": (0x011C, 3, b"\xb1\0\0\0"),
}


@pytest.mark.parametrize("format", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("name", DAMAGED_TAGS)
def test_damaged_tags_do_not_cost_the_picture(capsys, model, tmp_path, name, format):
    tag, kind, value = DAMAGED_TAGS[name]
    place = struct.pack("<I", 48) if len(value) > 4 else value
    maker = struct.pack("<HHI4s", 0x010F, 2, 4, b"us!\0")
    entries = sorted([maker, struct.pack("<HHI", tag, kind, 8 if kind == 2 else 1) + place],
                     key=lambda entry: struct.unpack("<H", entry[:2]))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(entries) + struct.pack("<I", 0) + bytes(10) + value
    Image.fromarray(PHOTO).save(tmp_path / "a.png", exif=exif)
    with Image.open(enhanced(capsys, tmp_path / "a.png", "--format", format)) as after:
        assert after.size == (128, 96)
        assert after.getexif().get(0x010F) == ("us!" if (name, format) != ("planes in another order", "tiff") else None)
        if format in ("png", "tiff"):
            np.testing.assert_array_equal(np.asarray(after), enhance(model, PHOTO))


@pytest.mark.parametrize("options, kept", [({"lossless": True}, True), ({"lossless": True, "xmp": XMP}, True),
                                           ({"quality": 80}, False), ({"quality": 80, "xmp": XMP}, False)])
def test_webp_without_loss_stays_so(capsys, model, tmp_path, options, kept):
    Image.fromarray(PHOTO).save(tmp_path / "a.webp", **options)
    path = enhanced(capsys, tmp_path / "a.webp")
    assert np.array_equal(read_image(path), enhance(model, read_image(tmp_path / "a.webp"))) == kept
    path.unlink()
    assert (b"VP8 " in enhanced(capsys, tmp_path / "a.webp", "--quality", 90).read_bytes()[:400])


def test_an_animation_without_loss_is_known_as_one(capsys, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.webp", lossless=True, save_all=True, append_images=[
        Image.fromarray(255 - PHOTO)])
    assert read_photograph(tmp_path / "a.webp").lossless


def test_quality_is_that_of_jpeg(capsys, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", quality=95)
    sizes = []
    for quality in (20, 95, 100):
        path = enhanced(capsys, tmp_path / "a.jpg", "--quality", quality, "--overwrite")
        sizes.append(path.stat().st_size)
    assert 3 * sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("format, suffix, kind", [("jpg", ".jpg", "JPEG"), ("png", ".png", "PNG"),
                                                  ("webp", ".webp", "WEBP"), ("tiff", ".tif", "TIFF")])
def test_format_of_the_results(capsys, model, tmp_path, format, suffix, kind):
    picture = Image.fromarray(PHOTO)
    picture.putalpha(200)
    picture.save(tmp_path / "a.png", dpi=(300, 240))
    path = enhanced(capsys, tmp_path / "a.png", "--format", format, "--quality", 100)
    assert path.name == f"a{suffix}"
    with Image.open(path) as after:
        after.load()
    assert (after.format, after.mode) == (kind, "RGB" if kind == "JPEG" else "RGBA")
    assert np.abs(np.asarray(after.convert("RGB")).astype(int) - enhance(model, PHOTO)).mean() < 2


def test_results_of_one_name_keep_their_old_suffix(capsys, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "a.png", "b.png"):
        Image.fromarray(PHOTO).save(tmp_path / "in" / name)
    assert run(capsys, main, tmp_path / "in", "--out", tmp_path / "out", "--format", "jpg").status == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "a.png.jpg", "b.jpg"]


@pytest.mark.parametrize("option, value", [("--strength", "1.5"), ("--strength", "nan"), ("--quality", "0"),
                                           ("--quality", "101"), ("--format", "gif")])
def test_options_out_of_range_are_refused(capsys, tmp_path, option, value):
    result = run(capsys, main, "a.png", "--out", tmp_path / "out", option, value)
    assert_one_error(result.status, result.err, option, value)


def test_strength_of_the_command(capsys, model, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    path = enhanced(capsys, tmp_path / "a.png", "--strength", 0.5)
    assert np.array_equal(read_image(path), enhance(model, PHOTO, strength=0.5))


# HEIC and RAW


def write_heic(path, **options):
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra [heic]")
    pillow_heif.register_heif_opener()
    Image.fromarray(PHOTO).save(path, format="HEIF", quality=90, **options)


def write_dng(path, mosaic, orientation=1):
    """Write a RAW file: 16-bit levels behind an RGGB filter, with the matrix of a camera that sees sRGB."""
    pytest.importorskip("rawpy", reason="needs the extra [raw]")
    tifffile = pytest.importorskip("tifffile", reason="needs the extra [tiff]")
    to_camera = [3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570]  # from XYZ
    rational = [number for value in to_camera for number in (round(value * 10_000), 10_000)]
    tifffile.imwrite(path, mosaic, photometric=32803, metadata=None, extratags=[
        (274, 3, 1, orientation, True), (271, 2, 0, "Test", True), (272, 2, 0, "Camera", True),
        (50706, 1, 4, bytes([1, 4, 0, 0]), True), (50708, 2, 0, "Test Camera", True),
        (33421, 3, 2, (2, 2), True), (33422, 1, 4, bytes([0, 1, 1, 2]), True), (50714, 4, 1, 0, True),
        (50717, 4, 1, 65535, True), (50721, 10, 9, rational, True), (50728, 5, 3, (1, 1, 1, 1, 1, 1), True),
        (50778, 3, 1, 21, True)])


def mosaic_of(linear):
    mosaic = np.empty(linear.shape[:2], np.uint16)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[row::2, column::2] = linear[row::2, column::2, channel]
    return mosaic


def test_heic_is_read_upright_with_its_exif(capsys, model, tmp_path):
    write_heic(tmp_path / "a.heic", exif=EXIF.tobytes(), xmp=XMP)
    path = enhanced(capsys, tmp_path / "a.heic", "--quality", 100)
    assert path.name == "a.jpg"
    with Image.open(path) as after:
        after.load()
    assert after.size == (96, 128) and after.getexif()[0x010F] == "camera maker" and 0x0112 not in after.getexif()
    expected = enhance(model, np.rot90(PHOTO, -1))
    assert np.abs(np.asarray(after).astype(int) - expected).mean() < 4


@pytest.mark.parametrize("orientation, turns", [(1, 0), (6, -1), (3, 2)])
def test_raw_is_developed_upright(capsys, tmp_path, orientation, turns):
    linear = np.zeros((96, 128, 3), np.uint16)
    linear[..., :64, 0], linear[:48, :, 1], linear[..., 2] = 20_000, 12_000, 5_000
    write_dng(tmp_path / "a.dng", mosaic_of(linear), orientation)
    deep = read_photograph(tmp_path / "a.dng", deep=True).pixels
    assert deep.dtype == np.uint16 and deep.shape == np.rot90(linear, turns).shape
    eight = read_photograph(tmp_path / "a.dng").pixels
    assert np.abs(eight - deep / 257.0).max() < 1.5
    places = np.rot90(linear, turns)[12::24, 12::24]
    seen = deep[12::24, 12::24].astype(int)
    for channel in (0, 1):  # lit and dark areas lie where they were
        lit = places[..., channel] > 0
        assert seen[lit, channel].min() > 1.5 * seen[~lit, channel].max()
    assert enhanced(capsys, tmp_path / "a.dng").name == "a.jpg"


def test_raw_beside_its_jpeg(capsys, tmp_path):
    (tmp_path / "in").mkdir()
    write_dng(tmp_path / "in" / "a.DNG", mosaic_of(np.full((96, 128, 3), 4000, np.uint16)))
    Image.fromarray(PHOTO).save(tmp_path / "in" / "a.JPG")
    Image.fromarray(PHOTO).save(tmp_path / "in" / "a.jpg")
    result = run(capsys, main, tmp_path / "in", "--out", tmp_path / "out", "--format", "png")
    assert result.status == 0, result.err
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("name", ["a.heic", "a.nef"])
def test_what_is_no_photograph_is_one_error(capsys, tmp_path, name):
    pytest.importorskip({"a.heic": "pillow_heif", "a.nef": "rawpy"}[name], reason="needs the extra")
    (tmp_path / name).write_bytes(b"no picture" * 100)
    result = run(capsys, main, tmp_path / name, "--out", tmp_path / "out")
    assert_one_error(result.status, result.err, str(tmp_path / name))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures the peak as Linux tells it")
def test_a_photograph_of_169_megapixels_takes_two_and_a_half_gigabytes(tmp_path):
    """At most, in a process of its own: the photograph has 0.5 GB, Pillow's copy 0.7 GB, the result 0.5 GB."""
    Image.new("RGB", (13_000, 13_000), (20, 30, 40)).save(tmp_path / "a.jpg")
    code = """if True:
        import re, sys
        from mirnet_torch.enhance import main
        main(sys.argv[1:])
        print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.jpg", "--out", tmp_path / "out", "--checkpoint",
                           "mcu"], check=True, capture_output=True, text=True)
    assert int(done.stdout.split()[-1]) < 2.5 * 2 ** 20

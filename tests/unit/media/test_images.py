"""Every kind of image becomes the same upright sRGB pixels, and every bad one a sentence."""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from stillmotion.errors import MediaError, StillmotionError, UsageError
from stillmotion.media import download, images

HEIGHT, WIDTH = 6, 4


def _colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8)


def _grey3(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.round(values).astype(np.uint8)[..., None], 3, axis=2)


def _over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(np.float64) / 255
    return np.round(colour * share + 255 * (1 - share)).astype(np.uint8)


def _palette() -> tuple[Image.Image, np.ndarray]:
    indices = np.random.default_rng(1).integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)
    table = np.array([[250, 10, 20], [30, 240, 50], [60, 70, 230]], np.uint8)
    image = Image.fromarray(indices).convert("L")
    image.putpalette(table.tobytes())
    image.info["transparency"] = bytes([255, 0, 128])
    return image, _over_white(table[indices], np.array([255, 0, 128], np.uint8)[indices])


def _cmyk() -> tuple[Image.Image, np.ndarray]:
    ink = _colours()
    light = 1 - ink.astype(np.float64) / 255
    return Image.frombytes("CMYK", (WIDTH, HEIGHT), ink.tobytes()), np.round(255 * light[..., :3] * light[..., 3:])


def _of_mode(mode: str) -> tuple[Image.Image, np.ndarray]:
    """An image of a mode as its file stores it, and the RGB pixels that it must give, worked out by hand."""
    rgba, grey = _colours(), _colours()[..., 0]
    deep = np.random.default_rng(2).integers(0, 65536, (HEIGHT, WIDTH))
    if mode == "P":
        return _palette()
    if mode == "CMYK":
        return _cmyk()
    return {
        "RGB": lambda: (Image.fromarray(rgba[..., :3].copy()), rgba[..., :3]),
        "RGBA": lambda: (Image.fromarray(rgba), _over_white(rgba[..., :3], rgba[..., 3])),
        "L": lambda: (Image.fromarray(grey), _grey3(grey)),
        "LA": lambda: (Image.fromarray(rgba[..., :2].copy(), "LA"), _over_white(_grey3(grey), rgba[..., 1])),
        "1": lambda: (Image.fromarray(grey > 127), _grey3(255.0 * (grey > 127))),
        "I;16": lambda: (Image.fromarray(deep.astype(np.uint16)), _grey3(deep / 257)),
        "I": lambda: (Image.fromarray(deep.astype(np.int32)), _grey3(deep / 257)),
        "F": lambda: (Image.fromarray((deep / 65535).astype(np.float32)), _grey3(deep / 257)),
    }[mode]()


FILES = {"RGB": "png", "RGBA": "png", "L": "png", "LA": "png", "P": "png", "1": "png"}
FILES |= {"I;16": "png", "I": "tiff", "F": "tiff", "CMYK": "tiff"}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", FILES)
def test_every_mode_and_orientation_gives_the_pixels_worked_out_by_hand(tmp_path, mode, orientation, oriented, upright):
    image, expected = _of_mode(mode)
    assert image.mode == mode
    path = tmp_path / f"image.{FILES[mode]}"
    image.save(path, exif=oriented(orientation))
    read = images.read_image(path)
    assert read.mode == "RGB"
    wanted = upright[orientation](expected).astype(int)
    assert np.asarray(read).shape == wanted.shape
    np.testing.assert_allclose(np.asarray(read).astype(int), wanted, atol=1)


def test_transparent_colour_of_an_rgb_png_is_white(tmp_path):
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = 10, 20, 30
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(10, 20, 30))
    read = np.asarray(images.read_image(tmp_path / "a.png"))
    assert read[0, 0].tolist() == [255, 255, 255]
    assert read[1, 1].tolist() == [0, 0, 0]


def _swapped_profile() -> bytes:
    """The sRGB profile with its red and blue primaries exchanged, so that a converted image shows it at once."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert b"rXYZ" in data
    return data.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_the_icc_profile_is_applied_and_not_kept(tmp_path, mode):
    image = Image.new("RGB", (3, 2), (200, 0, 40))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.png", icc_profile=_swapped_profile())
    read = images.read_image(tmp_path / "a.png")
    assert np.abs(np.asarray(read).astype(int) - (40, 0, 200)).max() <= 6  # the profile rounds its primaries
    images.save_png(read, tmp_path / "b.png")
    assert np.array_equal(np.asarray(images.read_image(tmp_path / "b.png")), np.asarray(read))
    assert b"iCCP" not in (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("profile", [b"not a profile", _swapped_profile()[:200]])
def test_a_damaged_profile_is_ignored(tmp_path, profile):
    Image.new("RGB", (3, 2), (200, 0, 40)).save(tmp_path / "a.png", icc_profile=profile)
    assert images.read_image(tmp_path / "a.png").getpixel((0, 0)) == (200, 0, 40)


def test_a_grey_image_with_a_colour_profile_is_read(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("L", (3, 2), 77).save(tmp_path / "a.png", icc_profile=profile)
    assert np.abs(np.array(images.read_image(tmp_path / "a.png").getpixel((0, 0))) - 77).max() <= 1


def test_upright_rgb_leaves_its_argument_alone_and_returns_another_image():
    image = Image.new("RGB", (2, 2), "red")
    image.info["icc_profile"] = b"x"
    result = images.upright_rgb(image)
    assert result is not image
    assert result.info == {}
    assert image.info == {"icc_profile": b"x"}


@pytest.mark.parametrize(("orientation", "size"), [(1, (160, 100)), (6, (100, 160))])
def test_draft_mode_is_no_smaller_than_asked_for(tmp_path, orientation, size, oriented):
    noise = np.random.default_rng(0).integers(0, 256, (800, 1280, 3)).astype(np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).save(path, exif=oriented(orientation))
    assert images.read_image(path, at_least=size).size == size
    larger = images.read_image(path, at_least=(size[0] + 1, size[1])).size
    assert larger == (2 * size[0], 2 * size[1])


def test_the_first_picture_of_an_mpo_is_read(tmp_path, oriented):
    first, second = Image.new("RGB", (32, 16), "red"), Image.new("RGB", (32, 16), "blue")
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second], exif=oriented(6))
    read = images.read_image(tmp_path / "a.mpo")
    assert read.size == (16, 32)
    assert read.getpixel((8, 16))[0] > 240


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_the_first_frame_of_an_animation_is_read(tmp_path, suffix):
    first, second = Image.new("RGB", (32, 16), "red"), Image.new("RGB", (32, 16), "blue")
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    assert images.read_image(tmp_path / f"a.{suffix}").getpixel((8, 8))[0] > 240


def _encoded(suffix: str) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=suffix)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp", "avif", "gif", "bmp", "tiff"])
def test_a_truncated_image_is_refused_or_whole(tmp_path, suffix):
    data, path, refused = _encoded(suffix), tmp_path / f"a.{suffix}", 0
    path.write_bytes(data)
    whole = np.asarray(images.read_image(path))
    for share in (0.02, 0.2, 0.5, 0.8, 0.98):
        path.write_bytes(data[: int(len(data) * share)])
        try:
            assert np.array_equal(np.asarray(images.read_image(path)), whole)
        except MediaError:
            refused += 1
    assert refused >= 4


def test_damaged_bytes_are_refused_or_read_but_never_crash(tmp_path):
    random, path = np.random.default_rng(4), tmp_path / "a"
    for suffix in ("png", "jpeg", "webp", "gif", "bmp", "tiff"):
        data = np.frombuffer(_encoded(suffix), np.uint8)
        for _ in range(60):
            changed = data.copy()
            changed[random.integers(0, min(len(data), 400), 4)] = random.integers(0, 256, 4)
            path.write_bytes(changed.tobytes())
            _read_or_refuse(path)


def _read_or_refuse(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's, about the damage
        try:
            assert images.read_image(path).mode == "RGB"
        except MediaError as error:
            _assert_sentence(error)


def _assert_sentence(error: BaseException) -> None:
    text = str(error)
    assert "expected" in text
    assert text.endswith(".")
    assert "\n" not in text


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(12000, 12000), (120_000_001, 1), (30000, 30000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(*size))  # there are no pixels: decoding would say so, and not "megapixels"
    with pytest.raises(MediaError, match="expected at most 120 megapixels") as caught:
        images.read_image(path)
    _assert_sentence(caught.value)


def test_a_real_144_megapixel_png_is_refused_and_100_are_read(tmp_path):
    Image.new("1", (12000, 12000)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="12000x12000"):
        images.read_image(tmp_path / "a.png")
    Image.new("L", (11648, 8736), 200).save(tmp_path / "b.jpg")
    assert images.read_image(tmp_path / "b.jpg").size == (11648, 8736)


def test_too_large_a_file_is_refused_by_its_size(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    os.truncate(path, images.MAX_FILE_BYTES + 1)
    with pytest.raises(MediaError, match="at most 256 MiB"):
        images.read_image(path)


def test_what_is_no_image_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "text.png").write_text("hello, I am text\n" * 50)
    (tmp_path / "empty.png").touch()
    (tmp_path / "drawing.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("text.png", "empty.png", "drawing.png", "pipe.png", "missing.png", "a" * 300, "nul\0.png", "."):
        with pytest.raises(MediaError) as caught:
            images.read_image(tmp_path / name)
        _assert_sentence(caught.value)
        assert str(tmp_path) in str(caught.value)


def test_find_images(tmp_path):
    for name in ("b.png", "a.JPG", "c.txt", ".hidden.png", "odd[1].png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    names = [path.name for path in images.find_images(str(tmp_path))]
    assert names == ["a.JPG", "b.png", "odd[1].png"]
    assert images.find_images(f"{tmp_path}/[ab].*") == [tmp_path / "a.JPG", tmp_path / "b.png"]
    assert images.find_images(f"{tmp_path}/odd[1].png") == [tmp_path / "odd[1].png"]
    assert images.find_images(f"{tmp_path}/c.txt") == [tmp_path / "c.txt"]
    assert images.find_images(tmp_path / "[ab].*") == [tmp_path / "a.JPG", tmp_path / "b.png"]
    assert images.find_images(tmp_path / "b.png") == [tmp_path / "b.png"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="does not exist"):
        images.find_images(tmp_path / "missing.png")
    for source in (f"{tmp_path}/missing.png", f"{tmp_path}/*.webp", f"{tmp_path}/none", "a" * 300, ""):
        with pytest.raises(UsageError) as caught:
            images.find_images(source)
        _assert_sentence(caught.value)


def test_save_png_is_whole_or_absent(tmp_path):
    image = Image.fromarray(_colours()[..., :3].copy())
    images.save_png(image, tmp_path / "new" / "a.png")
    assert np.array_equal(np.asarray(images.read_image(tmp_path / "new" / "a.png")), np.asarray(image))
    with pytest.raises(MediaError, match="mode LAB"):
        images.save_png(Image.new("LAB", (2, 2)), tmp_path / "new" / "a.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    (tmp_path / "file").touch()
    with pytest.raises(StillmotionError):
        images.save_png(image, tmp_path / "file" / "a.png")


def test_load_image_takes_paths_and_images(tmp_path):
    image, expected = _of_mode("RGBA")
    image.save(tmp_path / "a.png")
    for source in (str(tmp_path / "a.png"), tmp_path / "a.png", image):
        assert np.abs(np.asarray(download.load_image(source)).astype(int) - expected).max() <= 1


def test_an_mp4_brand_tells_heic_from_avif_and_the_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    box = b"\0\0\0\x18ftyp%s\0\0\0\0%s" + b"mif1"
    for brands in ((b"heic", b"heic"), (b"mif1", b"heic"), (b"mif1", b"miaf")):
        (tmp_path / "a.jpg").write_bytes(box % brands)
        with pytest.raises(MediaError, match=r"needs the package pillow-heif; expected .*stillmotion\[heic\]\.$"):
            images.read_image(tmp_path / "a.jpg")
    for brands in ((b"avif", b"avif"), (b"mif1", b"avif"), (b"isom", b"mp41")):
        (tmp_path / "a.heic").write_bytes(box % brands)
        with pytest.raises(MediaError, match="not those of an image"):
            images.read_image(tmp_path / "a.heic")


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_turned_by_its_container_alone(tmp_path, orientation, oriented):
    heif = pytest.importorskip("pillow_heif", reason="needs stillmotion[heic]")
    image = Image.new("RGB", (64, 32), "red")
    image.paste("blue", (32, 0, 64, 32))
    image.info["exif"] = oriented(orientation).tobytes()
    heif.from_pillow(image).save(tmp_path / "a.png", quality=-1)
    read = images.read_image(tmp_path / "a.png")
    # For 6, pillow-heif turns the pixels as it writes them, and has the container turn them again: by 180 degrees.
    # EXIF, which still says 6, adds nothing.
    left, right = (0, 2) if orientation == 1 else (2, 0)
    assert read.size == (64, 32)
    assert read.getpixel((8, 8))[left] > 200 and read.getpixel((56, 24))[right] > 200
    data = (tmp_path / "a.png").read_bytes()
    for length in range(8, len(data), max(1, len(data) // 40)):
        (tmp_path / "cut").write_bytes(data[:length])
        _read_or_refuse(tmp_path / "cut")


@pytest.mark.parametrize("is_adobe", [True, False])
def test_inks_of_a_jpeg_are_upright_whoever_wrote_it(tmp_path, is_adobe):
    buffer = io.BytesIO()
    Image.new("CMYK", (32, 32), (255, 0, 0, 51)).save(buffer, format="JPEG", quality=100)
    data = buffer.getvalue()
    marker = data.index(b"\xff\xee")  # APP14: Adobe's, whose files hold 255 - ink
    assert data[marker + 4 : marker + 9] == b"Adobe"
    if is_adobe:
        expected = (0, 204, 204)
    else:
        data = data[:marker] + data[marker + 16 :]
        expected = (51, 0, 0)  # the inks are what is stored: 0, 255, 255, 204
    (tmp_path / "a.jpg").write_bytes(data)
    assert np.abs(np.array(images.read_image(tmp_path / "a.jpg").getpixel((9, 9))) - expected).max() <= 2


def _png_with_key(depth: int, kind: int, row: bytes, key: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0)
    parts = (b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("depth", "kind", "row", "key", "other"),
    [
        (1, 0, b"\x80", b"\0\1", (0, 0, 0)),
        (2, 0, b"\x90", b"\0\2", (85, 85, 85)),
        (4, 0, b"\x93", b"\0\x09", (51, 51, 51)),
        (8, 0, b"\x09\x30", b"\0\x09", (48, 48, 48)),
        (16, 0, b"\x12\x34\x12\x35", b"\x12\x34", (18, 18, 18)),
        (8, 2, b"\1\2\3\4\5\6", b"\0\1\0\2\0\3", (4, 5, 6)),
        (16, 2, b"\x11\1\x12\1\x13\1\x21\0\x22\0\x23\0", b"\x11\1\x12\1\x13\1", (33, 34, 35)),
    ],
)
def test_the_transparent_value_of_a_png_of_any_depth(tmp_path, depth, kind, row, key, other):
    (tmp_path / "a.png").write_bytes(_png_with_key(depth, kind, row, key))
    read = images.read_image(tmp_path / "a.png", background="#0a0b0c")
    assert read.getpixel((0, 0)) == (10, 11, 12)
    assert read.getpixel((1, 0)) == other


@pytest.mark.parametrize(("suffix", "limit"), [("webp", 30), ("avif", 50), ("png", 120)])
def test_each_format_has_its_own_limit_of_pixels(tmp_path, monkeypatch, suffix, limit):
    Image.new("RGB", (40, 30)).save(tmp_path / f"a.{suffix}")
    scaled = {name: value // 10**6 for name, value in images.MAX_PIXELS_OF.items()}
    assert images.MAX_PIXELS_OF.get(suffix.upper(), images.MAX_PIXELS) == limit * 10**6
    monkeypatch.setattr(images, "MAX_PIXELS_OF", scaled)
    monkeypatch.setattr(images, "MAX_PIXELS", 120)
    with pytest.raises(MediaError, match="40x30 pixels"):
        images.read_image(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("kind", ["VP8L", "VP8 ", "VP8X"])
def test_the_size_of_a_webp_is_known_before_a_canvas_is_made(tmp_path, monkeypatch, kind):
    picture = Image.new("RGBA" if kind == "VP8X" else "RGB", (300, 20), "red")
    picture.putpixel((0, 0), (0, 0, 255, 9) if kind == "VP8X" else (0, 0, 255))
    picture.save(tmp_path / "a.webp", lossless=kind == "VP8L")
    data = bytearray((tmp_path / "a.webp").read_bytes())
    assert data[12:16] == kind.encode()
    if kind == "VP8L":
        data[21:25] = struct.pack("<I", 16382 | 16382 << 14)
    elif kind == "VP8X":
        data[24:30] = struct.pack("<I", 16382)[:3] * 2
    else:
        data[26:30] = struct.pack("<HH", 16383, 16383)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a decoder was asked"))
    (tmp_path / "huge.webp").write_bytes(data)
    with pytest.raises(MediaError, match=r"16383x16383 pixels; expected at most 30 megapixels\.$"):
        images.read_image(tmp_path / "huge.webp")
    monkeypatch.undo()
    assert images.read_image(tmp_path / "a.webp").size == (300, 20)


def test_a_warning_that_is_an_error_is_a_sentence(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tiff", description="x" * 50)
    data = bytearray((tmp_path / "a.tiff").read_bytes())
    place = data.index(struct.pack("<HH", 270, 2))  # the description, said to be longer than the file
    data[place + 4 : place + 8] = struct.pack("<I", 10**6)
    (tmp_path / "a.tiff").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            assert images.read_image(tmp_path / "a.tiff").size == (8, 8)
        except MediaError as error:
            _assert_sentence(error)


@pytest.mark.parametrize(("orientation", "size"), [(1, (30, 20)), (6, (20, 30))])
def test_the_upright_size_comes_from_the_header(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert images.upright_size(tmp_path / "a.jpg") == size
    (tmp_path / "b.jpg").write_text("no image")
    assert images.upright_size(tmp_path / "b.jpg") is None


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("exif", [False, True])
def test_a_png_is_turned_by_its_exif_alone(tmp_path, exif):
    own = Image.Exif()
    own[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png", pnginfo=text, **({"exif": own} if exif else {}))
    size = (20, 30) if exif else (30, 20)
    assert images.upright_size(tmp_path / "a.png") == images.read_image(tmp_path / "a.png").size == size

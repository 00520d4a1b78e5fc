"""What decoding takes is told from headers, and refused before anything is decoded."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from stillmotion.errors import MediaError
from stillmotion.media import decoding, images, jpeg
from stillmotion.media.still import read_picture

SIZE = (250, 130)  # 32 by 17 blocks of 8, 16 by 9 of 16


def saved(kind: str, mode: str = "RGB", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    Image.new(mode, SIZE).save(file, format=kind, **options)
    return file


def opened(file: io.BytesIO) -> Image.Image:
    file.seek(0)
    return Image.open(file)


@pytest.mark.parametrize(
    ("mode", "subsampling", "blocks"),
    [
        ("L", -1, 32 * 17),
        ("RGB", 0, 3 * 32 * 17),
        ("RGB", 1, 2 * 32 * 17),
        ("RGB", 2, 6 * 16 * 9),
        ("CMYK", 0, 4 * 32 * 17),
    ],
)
def test_a_progressive_jpeg_is_held_whole_as_coefficients(mode, subsampling, blocks):
    file = saved("JPEG", mode, progressive=True, subsampling=subsampling)
    assert jpeg.coefficient_bytes(file, "a") == 128 * blocks
    assert jpeg.coefficient_bytes(saved("JPEG", mode, subsampling=subsampling), "a") == 0


def test_so_is_a_plain_one_whose_colours_have_scans_of_their_own():
    data = bytearray(saved("JPEG", subsampling=0).getvalue())
    scan = data.index(b"\xff\xda\0\x0c\3")
    data[scan : scan + 14] = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    assert jpeg.coefficient_bytes(io.BytesIO(bytes(data)), "a") == 128 * 3 * 32 * 17


def test_the_picture_itself_counts_at_the_size_that_it_is_decoded_to():
    file = saved("JPEG", progressive=True, subsampling=0)
    with opened(file) as image:
        image.draft(None, (60, 30))
        assert image.size == (63, 33)
        assert decoding.decoding_bytes(image, file, "a") == 63 * 33 * 4 + 128 * 3 * 32 * 17


@pytest.mark.parametrize(("mode", "each"), [("RGB", 4), ("L", 1), ("P", 1), ("I;16", 2), ("RGBA", 4)])
def test_a_plain_format_takes_what_its_pixels_do(mode, each):
    file = saved("PNG", mode)
    with opened(file) as image:
        assert decoding.decoding_bytes(image, file, "a") == SIZE[0] * SIZE[1] * each


def test_a_compressed_tiff_takes_its_file_and_its_largest_strip_too():
    pixels = SIZE[0] * SIZE[1]
    for strip_size, rows in ((1 << 30, SIZE[1]), (SIZE[0] * 3 * 10, 10)):
        file = saved("TIFF", compression="tiff_lzw", strip_size=strip_size)
        with opened(file) as image:
            expected = 4 * pixels + len(file.getvalue()) + 3 * SIZE[0] * rows
            assert decoding.decoding_bytes(image, file, "a") == expected
    file = saved("TIFF")
    with opened(file) as image:
        assert decoding.decoding_bytes(image, file, "a") == 4 * pixels


@pytest.mark.parametrize(("mode", "subsampling", "each"), [("RGB", "4:2:0", 8.5), ("RGBA", "4:4:4", 12)])
def test_an_avif_takes_its_planes_and_two_copies(mode, subsampling, each):
    file = saved("AVIF", mode, subsampling=subsampling)
    with opened(file) as image:
        assert decoding.decoding_bytes(image, file, "a") == len(file.getvalue()) + int(SIZE[0] * SIZE[1] * each)


def test_a_heic_of_more_than_eight_bits_takes_sixteen():
    heif = pytest.importorskip("pillow_heif")
    for mode, chroma, each in (("RGB", 420, 7), ("RGB;16", 444, 12), ("RGBA;16", 444, 16)):
        bits = 2 if mode.endswith("16") else 1
        raw = heif.from_bytes(mode=mode, size=SIZE, data=bytes(SIZE[0] * SIZE[1] * len(mode.split(";")[0]) * bits))
        file = io.BytesIO()
        raw.save(file, chroma=chroma)
        with images.open_image(file, "a") as image:
            size = len(file.getvalue())
            assert decoding.decoding_bytes(image, file, "a") == size + image.width * image.height * each


def test_where_nothing_is_said_of_the_planes_the_most_is_taken():
    file = saved("AVIF")
    with opened(file) as image:
        hidden = io.BytesIO(file.getvalue().replace(b"av1C", b"none"))
        said = decoding.decoding_bytes(image, hidden, "a")
        assert said == len(file.getvalue()) + SIZE[0] * SIZE[1] * (6 + 3 + 4)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "GIF"])
def test_more_than_is_allowed_is_refused_in_a_sentence_and_not_decoded(tmp_path, monkeypatch, kind):
    options = {"JPEG": {"progressive": True}, "TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    path = tmp_path / "a"
    path.write_bytes(saved(kind, **options).getvalue())
    monkeypatch.setattr(decoding, "MAX_DECODING_BYTES", 20_000)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(MediaError, match=rf"takes .* MB to decode its {kind}; expected .* at most 0 MB") as caught:
        images.read_image(path)
    assert ("not progressive" in str(caught.value)) == (kind == "JPEG")


def test_an_animation_is_measured_before_its_first_frame(tmp_path, monkeypatch):
    first = Image.new("RGB", SIZE, "red")
    first.save(tmp_path / "a.webp", save_all=True, append_images=[Image.new("RGB", SIZE, "blue")], duration=100)
    assert read_picture(tmp_path / "a.webp", 0.1).size == SIZE
    monkeypatch.setattr(decoding, "MAX_DECODING_BYTES", 20_000)
    with pytest.raises(MediaError, match="to decode its WEBP"):
        read_picture(tmp_path / "a.webp", 0.1)


def test_a_long_bmp_in_run_lengths_is_not_begun(tmp_path, monkeypatch):
    palette, runs = bytes(range(256)) * 4, b"\x08\x07\0\0" * 4 + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = b"BM" + struct.pack("<IHHI", 54 + len(palette) + len(runs), 0, 0, 54 + len(palette))
    (tmp_path / "a.bmp").write_bytes(start + header + palette + runs)
    assert images.read_image(tmp_path / "a.bmp").size == (8, 4)
    monkeypatch.setattr(decoding, "MAX_RUNS_BYTES", 1000)
    with pytest.raises(MediaError, match="BMP in run lengths"):
        images.read_image(tmp_path / "a.bmp")


@pytest.mark.parametrize("place", [2, 20])
def test_what_stands_between_segments_does_not_hide_the_next(place):
    data = saved("JPEG", progressive=True, subsampling=0).getvalue()
    strayed = data[:place] + b"\0\1\xff\xff\xff\0\2" + data[place:]
    assert jpeg.coefficient_bytes(io.BytesIO(strayed), "a") == 128 * 3 * 32 * 17


def test_a_file_that_is_cut_off_or_no_jpeg_passes():
    whole = saved("JPEG", progressive=True).getvalue()
    scan = whole.index(b"\xff\xda")
    for data in (b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", whole[:scan], whole[: scan + 3], saved("PNG").getvalue()):
        file = io.BytesIO(data)
        jpeg.check_segments(file, "a")
        assert file.tell() == 0
        assert jpeg.coefficient_bytes(file, "a") in (0, 128 * 6 * 16 * 9)


def test_damaged_frames_never_raise_anything_untyped():
    whole = bytearray(saved("JPEG", progressive=True).getvalue())
    frame = whole.index(b"\xff\xc2")
    random = np.random.default_rng(0)
    for _ in range(300):
        mutant = bytearray(whole)
        for place in random.integers(frame, frame + 24, 4):
            mutant[place] = random.integers(0, 256)
        assert jpeg.coefficient_bytes(io.BytesIO(bytes(mutant)), "a") >= 0

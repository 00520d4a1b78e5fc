"""Bombs and mutated images are read or refused with a sentence, quickly and in little memory.

Run as a program, in a process of its own so that its memory can be told: `test_images_fuzz.py COUNT` reads that many
mutants, `test_images_fuzz.py FILE...` files; the figures are printed as JSON.
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillmotion.errors import MediaError, StillmotionError
from stillmotion.media import decoding
from stillmotion.media.document import read_document
from stillmotion.media.images import FORMATS, read_image
from stillmotion.media.probe import media_kind, probe, probe_image
from stillmotion.media.still import read_picture
from stillmotion.media.video import read_video

try:
    import pillow_heif
except ImportError:  # an extra
    pillow_heif = None

FRAME = (1024, 576)
STATUS = Path("/proc/self/status")


def _seeds() -> list[bytes]:
    """Small images of every format and of several modes."""
    random, found = np.random.default_rng(3), []
    rgba = Image.fromarray(random.integers(0, 256, (40, 50, 4)).astype(np.uint8))
    deep = Image.fromarray(random.integers(0, 65536, (40, 50)).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in FORMATS:
        image = rgba if kind in ("PNG", "WEBP", "AVIF", "TIFF") else rgba.convert("RGB")
        more = [(image, {"exif": exif} if kind not in ("GIF", "BMP") else {})]
        if kind in ("GIF", "WEBP", "PNG"):
            more.append((image, {"save_all": True, "append_images": [image.rotate(90)], "duration": 100}))
        if kind == "JPEG":
            more += [(image, {"progressive": True}), (image.convert("CMYK"), {})]
        if kind in ("PNG", "TIFF"):
            more += [(deep, {}), (image.convert("P"), {"transparency": 3} if kind == "PNG" else {})]
        if kind == "TIFF":
            more += [
                (image.convert("RGB"), {"compression": name}) for name in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")
            ]
        for each, options in more:
            buffer = io.BytesIO()
            each.save(buffer, format=kind, **options)
            found.append(buffer.getvalue())
    if pillow_heif is not None:
        for each in (rgba, rgba.convert("RGB")):
            buffer = io.BytesIO()
            pillow_heif.from_pillow(each).save(buffer)
            found.append(buffer.getvalue())
    return found


def _mutant(data: bytes, random: np.random.Generator) -> bytes:
    """A few bytes changed, mostly in the first 400, where the headers are; now and then cut, doubled or filled."""
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 9))):
        reach = min(len(changed), 400) if random.random() < 0.7 else len(changed)
        changed[int(random.integers(0, reach))] = int(random.choice([0, 1, 127, 128, 255, random.integers(0, 256)]))
    if random.random() < 0.1:
        del changed[int(random.integers(0, len(changed))) :]
    if random.random() < 0.1:
        place = int(random.integers(0, len(changed) + 1))
        changed[place:place] = changed[: int(random.integers(0, 200))]
    return bytes(changed)


def _memory_mb(field: str) -> float:
    if not STATUS.exists():  # no Linux: the largest of the whole process is all there is
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return next(int(line.split()[1]) / 1000 for line in STATUS.read_text().splitlines() if line.startswith(field))


def _measured(path: Path) -> tuple[str, float, float]:
    """The error, or nothing; seconds of this process's own work; and megabytes above where it stood."""
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = _memory_mb("VmRSS"), time.process_time()
    try:
        assert read_image(path, at_least=FRAME).mode == "RGB"
        problem = ""
    except MediaError as error:
        problem = str(error)
        assert "expected" in problem and problem.endswith(".") and "\n" not in problem, problem
    return problem, time.process_time() - started, _memory_mb("VmHWM") - before


def _mutants(count: int) -> dict[str, float]:
    seeds, slowest, largest, refused = _seeds(), 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant"
        for data in seeds:  # what is imported and kept for good is no mutant's doing
            path.write_bytes(data)
            assert _measured(path)[0] == ""
        for number in range(count):
            random = np.random.default_rng([5, number])
            path.write_bytes(_mutant(seeds[number % len(seeds)], random))
            problem, seconds, megabytes = _measured(path)
            refused += problem != ""
            slowest, largest = max(slowest, seconds), max(largest, megabytes)
    return {"count": count, "refused": refused, "slowest_s": round(slowest, 3), "largest_mb": round(largest, 1)}


def in_a_child(*arguments: str) -> list:
    """What this file prints as a program, warnings being as they are for a user."""
    command = [sys.executable, __file__, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutants(count: int) -> None:
    (found,) = in_a_child(str(count))
    print(found)
    assert found["count"] == count and 0.1 * count < found["refused"] < 0.995 * count
    assert found["slowest_s"] <= 2
    assert found["largest_mb"] <= 500


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _png(width: int, height: int, before_pixels: bytes = b"", pixels: bytes = b"") -> bytes:
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    rest = before_pixels + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + rest


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """A progressive JPEG that claims another size."""
    place = jpeg.index(b"\xff\xc2") + 5
    return jpeg[:place] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[place + 4 :]


def _bombs(folder: Path) -> list[Path]:
    drawing = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
    whole = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(whole, format="PNG")
    photo = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(photo, format="JPEG")
    segment = b"\xff\xe1\xff\xffExif\0\0" + b"x" * (65535 - 8)
    passes = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(passes, format="JPEG", progressive=True, subsampling=0)
    scan = passes.getvalue()[passes.getvalue().rindex(b"\xff\xda") : -2]
    compressor = zlib.compressobj(9)
    dark = b"".join(compressor.compress(bytes(1501)) for _ in range(12000)) + compressor.flush()
    frame = b"\x21\xf9\x04\0\x01\0\0\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    gif = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff;"
    claims = _chunk(b"acTL", (2**31).to_bytes(4, "big") + bytes(4))
    files = {
        "144 megapixels.png": _png(12000, 12000, pixels=dark),
        "frames.gif": gif[:-1] + frame * 10_000 + b";",
        "2^31 frames.png": _png(8, 1, claims, zlib.compress(b"\0\0")),
        "strip.png": _png(1, 1_000_000, pixels=zlib.compress(bytes(2_000_000))),
        "polyglot.png": whole.getvalue() + b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18),
        "svg.png": drawing,
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "exif.jpg": photo.getvalue()[:2] + segment * 200 + photo.getvalue()[2:],
        "passes.jpg": passes.getvalue()[:-2] + scan * 2000 + passes.getvalue()[-2:],
        "exif behind a stray.jpg": photo.getvalue()[:2] + segment + b"\0" + segment * 200 + photo.getvalue()[2:],
        "strays.jpg": photo.getvalue()[:20] + bytes(20_000_000) + photo.getvalue()[20:],
        "segments.jpg": photo.getvalue()[:20] + b"\xff\xfe\0\2" * 5_000_000 + photo.getvalue()[20:],
        "chunks.png": whole.getvalue()[:33] + _chunk(b"aaAa", b"") * 1_000_000 + whole.getvalue()[33:],
        "comments.gif": gif[:-1] + b"\x21\xfe\1a\0" * 1_000_000 + frame + b";",
        "notes.gif": gif[:-1] + b"\x21\xfe" + b"\1a" * 2_000_000 + b"\0" + frame + b";",
        "strays.gif": gif[:-1] + bytes(5_000_000) + frame + b";",
        "coefficients.jpg": with_size(passes.getvalue(), 12000, 9900),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


REFUSED = {"144 megapixels.png": "12000x12000", "svg.png": "not those", "eps.png": "not those", "passes.jpg": "passes"}
REFUSED |= {"exif.jpg": "KiB of EXIF", "exif behind a stray.jpg": "KiB of EXIF", "strays.jpg": "belong to nothing"}
REFUSED |= dict.fromkeys(("chunks.png", "comments.gif", "notes.gif", "strays.gif"), "pieces")
REFUSED |= {"segments.jpg": "segments", "coefficients.jpg": "MB to decode its JPEG"}


def test_bombs_are_refused_or_read_at_once_and_in_little_memory(tmp_path: Path) -> None:
    paths = _bombs(tmp_path)
    for path, (problem, seconds, megabytes) in zip(paths, in_a_child(*map(str, paths)), strict=True):
        print(f"{path.name}: {seconds:.3f} s, {megabytes:.1f} MB, {problem or 'read'}")
        assert (REFUSED.get(path.name, "\n") in problem) if problem else path.name not in REFUSED
        assert seconds <= 0.2
        assert megabytes <= 64


@pytest.mark.slow
@pytest.mark.parametrize("read", [media_kind, probe, probe_image, read_video, read_document, read_picture])
def test_bombs_are_harmless_at_every_door(tmp_path: Path, read: Callable[[Path], object]) -> None:
    calm = tmp_path / "calm.png"
    Image.new("RGB", (8, 8)).save(calm)
    for path in [calm, *_bombs(tmp_path)]:
        began = time.process_time()
        try:
            read(path)
        except StillmotionError as error:
            assert "expected" in str(error) and "\n" not in str(error)
        # A million pieces take 1.5 s where nothing else runs, and over 2 beside other work. The first imports.
        assert time.process_time() - began <= 4 or path is calm


def test_what_an_animation_claims_is_refused_as_a_video(tmp_path: Path) -> None:
    _bombs(tmp_path)
    for name in ("frames.gif", "2^31 frames.png"):
        for read in (probe, read_video):
            with pytest.raises(MediaError, match="expected at most 4096"):
                read(tmp_path / name)
        assert read_picture(tmp_path / name).mode == "RGB"  # its first picture is sound


def _large(folder: Path) -> list[Path]:
    """An image of each kind whose decoder holds more than the picture, of some megapixels."""
    pattern = np.random.default_rng(0).integers(0, 256, (8, 8, 4)).astype(np.uint8)
    rgba = Image.fromarray(np.tile(pattern, (400, 600, 1)))
    rgb, cmyk, kinds = rgba.convert("RGB"), rgba.convert("RGB").convert("CMYK"), {}
    kinds["4.jpg"] = (cmyk, {"progressive": True})
    kinds["3.jpg"] = (rgb, {"progressive": True, "subsampling": 0})
    kinds["plain.jpg"] = (cmyk, {})
    kinds["strip.tif"] = (rgb, {"compression": "tiff_adobe_deflate", "strip_size": 1 << 30})
    kinds["rows.tif"] = (rgb, {"compression": "tiff_adobe_deflate"})
    kinds["4.avif"] = (rgba, {"subsampling": "4:4:4", "speed": 10, "quality": 30})
    kinds["3.avif"] = (rgb, {"speed": 10, "quality": 30})
    for name, (image, options) in kinds.items():
        image.save(folder / name, **options)
    return [folder / name for name in kinds]


@pytest.mark.slow
def test_what_decoding_is_said_to_take_is_what_it_takes(tmp_path: Path) -> None:
    for path in _large(tmp_path):
        ((problem, _, megabytes),) = in_a_child(str(path))  # alone, for memory that was freed is taken again
        assert problem == ""
        with path.open("rb") as file, Image.open(file) as image:
            if path.suffix == ".jpg":
                image.draft(None, FRAME)
            said = decoding.decoding_bytes(image, file, path.name) / 1e6
            beside = 4 * image.width * image.height / 1e6  # the result; these are below what is made smaller
        print(f"{path.name}: {said:.1f} MB said, {beside:.1f} for the result, {megabytes:.1f} measured")
        assert 0.95 * said <= 1.024 * megabytes <= 1.1 * said + beside + 16


@pytest.mark.parametrize("tail", [b"", b"\0" * 100])
def test_a_file_of_no_use_is_refused_whatever_follows_its_first_bytes(tmp_path: Path, tail: bytes) -> None:
    starts = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\4\0\0\0WEBPVP8 ", b"BM", b"II*\0", b"MM\0*"]
    starts += [b"\0\0\0\x18ftypavif\0\0\0\0mif1", b"\0\0\0\x18ftypheic\0\0\0\0mif1", b"\0\0\0\x18ftypmif1\0\0\0\0mif1"]
    for start in starts:
        (tmp_path / "a").write_bytes(start + tail)
        with pytest.raises(MediaError) as caught:
            read_image(tmp_path / "a")
        assert "expected" in str(caught.value)


def _main(arguments: list[str]) -> None:
    if len(arguments) == 1 and arguments[0].isdecimal():
        sys.stdout.write(json.dumps(_mutants(int(arguments[0]))) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(_seeds()):
            (Path(folder) / str(number)).write_bytes(data)
            read_image(Path(folder) / str(number), at_least=FRAME)
    for name in arguments:
        sys.stdout.write(json.dumps(_measured(Path(name))) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1:])

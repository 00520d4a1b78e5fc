"""Animations and folders of pngs: right pixels at the right times, and bombs refused at once."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from stillmotion.errors import MediaError
from stillmotion.media.formats import MAX_ANIMATION_FRAMES, Encoding
from stillmotion.media.video import read_video, write_video

CODECS = Path(__file__).parents[2] / "data" / "media" / "codecs"


def _steps(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (20, 10), (40 * number, 10, 200 - 30 * number)) for number in range(count)]


@pytest.mark.parametrize(("name", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {})])
def test_what_pillow_wrote_is_read_with_its_times(tmp_path, name, options):
    pictures = _steps(4)
    path = tmp_path / f"a.{name}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[50, 100, 150, 200], **options)
    video = read_video(path)
    assert video.fps == pytest.approx(4 / 0.5)
    assert np.abs(video.frames.astype(int) - np.stack([np.asarray(each) for each in pictures])).max() <= 1
    assert np.array_equal(read_video(path, max_frames=2).frames, video.frames[:2])


def test_hardly_any_time_is_a_tenth_of_a_second_as_in_browsers(tmp_path):
    pictures = _steps(3)
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=0)
    assert read_video(tmp_path / "a.gif").fps == pytest.approx(10)


def test_transparency_is_laid_over_white(tmp_path):
    pictures = [Image.new("RGBA", (8, 8), (200, 0, 0, alpha)) for alpha in (255, 0, 128)]
    for name in ("a.webp", "a.png"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
        colours = read_video(tmp_path / name).frames[:, 4, 4].astype(int)
        assert np.abs(colours - [[200, 0, 0], [255, 255, 255], [227, 127, 127]]).max() <= 1


def test_a_still_for_other_programs_is_no_frame(tmp_path):
    pictures = _steps(3)
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:], duration=100, default_image=True)
    video = read_video(tmp_path / "a.png")
    assert np.array_equal(video.frames[:, 5, 5, 0], [40, 80])
    assert video.fps == 10


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_a_still_picture_is_no_video(tmp_path, name):
    _steps(1)[0].save(tmp_path / name)
    with pytest.raises(MediaError, match="still picture; expected"):
        read_video(tmp_path / name)


def test_a_folder_keeps_pixels_and_rate(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 9, 7, 3)).astype(np.uint8)
    write_video(tmp_path / "pictures", frames, 30000 / 1001, Encoding(format="png"), document="{}")
    names = ["00000.png", "00001.png", "00002.png", "recipe.json"]
    assert sorted(each.name for each in (tmp_path / "pictures").iterdir()) == names
    video = read_video(tmp_path / "pictures")
    assert np.array_equal(video.frames, frames)
    assert video.fps == float(Fraction(30000, 1001))


def test_folders_of_others(tmp_path):
    for number, each in enumerate(_steps(3)):
        each.save(tmp_path / f"x{number}.PNG")
    assert read_video(tmp_path).fps == 25
    assert len(read_video(tmp_path, max_frames=2).frames) == 2
    Image.new("RGB", (3, 3)).save(tmp_path / "x9.png")
    with pytest.raises(MediaError, match="20x10 and 3x3"):
        read_video(tmp_path)
    text = PngImagePlugin.PngInfo()
    text.add_text("play_fps", "1/0")
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png", pnginfo=text)
    with pytest.raises(MediaError):
        read_video(tmp_path, max_frames=2)
    (tmp_path / "none").mkdir()
    with pytest.raises(MediaError, match="without pngs"):
        read_video(tmp_path / "none")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _apng(claimed: int, width: int = 1) -> bytes:
    parts = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0))]
    parts += [_chunk(b"acTL", struct.pack(">II", claimed, 0))]
    parts += [_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, width, width, 0, 0, 1, 10, 0, 0))]
    parts += [_chunk(b"IDAT", zlib.compress(bytes(4))), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _gif(frames: int, width: int = 1) -> bytes:
    picture = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, width, 0x80, 0, 0) + bytes(6) + picture * frames + b"\x3b"


@pytest.mark.parametrize(
    "data",
    [
        _gif(10_000),
        _gif(MAX_ANIMATION_FRAMES + 1),
        _gif(MAX_ANIMATION_FRAMES, 5000),  # 4096 frames of 25 megapixels in 70 kB
        _gif(1, 65535),
        _apng(2**31),
        _apng(2),
        _apng(1, 20_000),
    ],
)
def test_bombs_are_refused_at_once(tmp_path, data):
    path = tmp_path / "bomb"
    path.write_bytes(data)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(MediaError, match=r"expected .*\.$"):
        read_video(path)
    elapsed, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed <= 0.5  # tracemalloc alone makes it three times slower
    assert peak <= 16 * 1024**2


@pytest.mark.parametrize("path", sorted(CODECS.iterdir()), ids=lambda path: path.name)
def test_every_odd_file_is_read(path):
    video = read_video(path, max_frames=3)
    frames, height, width, _ = video.frames.shape
    sizes = {
        "animated.gif": (3, 48, 64),
        "frame_exceeds_screen.gif": (1, 8, 8),
        "nasa_13013_rotated.mp4": (3, 480, 270),
        "discard_first_keyframe.mp4": (3, 64, 64),
        "bt601_full_range.mp4": (3, 240, 320),
        "testsrc2_odd_height_and_width_vp9.mp4": (3, 241, 321),
        "testsrc2_odd_height_and_width_444.mp4": (3, 241, 321),
        "testsrc2_av1_10bit.mp4": (3, 240, 320),
        "h264_10bits.mp4": (3, 200, 200),
        "test_non_zero_start.mp4": (3, 112, 200),
    }
    assert (frames, height, width) == sizes.get(path.name, (3, 720, 1280))
    assert video.frames.std() > 2

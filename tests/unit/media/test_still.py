"""A picture is taken from an image, or from a video at the time that was asked for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stillmotion.errors import MediaError, StillmotionError, UsageError
from stillmotion.media import still
from stillmotion.media.still import frame_at, read_picture
from stillmotion.media.video import read_video

COUNT, FPS, STEP = 20, 10, 12


def _write(path: Path, codec: str, offset: int = 0) -> Path:
    """Frame i is grey of level STEP i; a key frame every seven; the first one is `offset` frames after zero."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"g": "7", "bf": "2", "crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(COUNT):
            grey = np.full((48, 64, 3), STEP * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = number + offset, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _number(image: Image.Image) -> float:
    assert image.mode == "RGB"
    return np.asarray(image).mean() / STEP


def _assert_sentence(error: BaseException) -> None:
    assert "expected" in str(error) and str(error).endswith(".") and "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "codec", "offset"),
    [
        ("a.mp4", "libx264", 0),
        ("late.mp4", "libx264", 30),
        ("a.mkv", "libx264", 0),
        ("a.webm", "libvpx-vp9", 0),
        ("a.avi", "mpeg4", 0),
        ("late.ts", "libx264", 30),
        ("bare.h264", "libx264", 0),
    ],
)
def test_the_frame_that_is_shown_at_a_time(tmp_path, name, codec, offset):
    path = _write(tmp_path / name, codec, offset)
    frames = read_video(path).frames
    # A bare stream says no times: only its first frame is sure.
    for number in (0,) if name == "bare.h264" else (0, 1, 6, 7, 8, 13, COUNT - 1):
        for part in (0.0,) if name == "bare.h264" else (0.0, 0.4, 0.99):
            picture = read_picture(path, (number + part) / FPS)
            assert abs(_number(picture) - number) < 0.6  # mpeg4 is a coarse codec
            assert np.array_equal(np.asarray(picture), frames[number])


def test_a_video_without_a_time_gives_its_first_frame(tmp_path):
    path = _write(tmp_path / "a.mp4", "libx264")
    assert abs(_number(read_picture(path))) < 0.3
    disguised = path.rename(tmp_path / "a.jpg")  # the bytes decide
    assert abs(_number(read_picture(disguised, 0.75)) - 7) < 0.3


@pytest.mark.parametrize("at_s", [-0.1, 2.2, 1e9, float("nan"), float("inf")])
def test_a_time_outside_the_video_is_refused(tmp_path, at_s):
    path = _write(tmp_path / "a.mp4", "libx264")
    for read in (read_picture, frame_at):
        with pytest.raises(UsageError) as caught:
            read(path, at_s)
        _assert_sentence(caught.value)
    if at_s in (2.2, 1e9):
        assert "2.000 s" in str(caught.value)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_animations_are_videos_where_a_time_is_given(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[200, 500, 300])
    colours = [read_picture(path, at_s).getpixel((9, 9)) for at_s in (None, 0, 0.19, 0.2, 0.69, 0.71, 1.0)]
    assert [int(np.argmax(colour)) for colour in colours] == [0, 0, 0, 1, 1, 2, 2]
    with pytest.raises(UsageError, match=r"1\.000 s"):
        read_picture(path, 1.2)


def test_a_transparent_animation_shows_the_background(tmp_path):
    frames = [Image.new("RGBA", (8, 8), (255, 0, 0, alpha)) for alpha in (255, 0)]
    frames[0].save(
        tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True, exact=True
    )
    assert read_picture(tmp_path / "a.webp", 0.15, background="navy").getpixel((4, 4)) == (0, 0, 128)


def test_frames_without_a_duration_are_shown_for_a_tenth_of_a_second(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "a.gif", 0.05).getpixel((4, 4))[0] > 200
    assert read_picture(tmp_path / "a.gif", 0.15).getpixel((4, 4))[1] > 200


def test_an_animation_is_not_decoded_for_ever(tmp_path, monkeypatch):
    frames = [Image.new("L", (10, 10), number) for number in range(40)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    monkeypatch.setattr(still, "MAX_WALK_PIXELS", 2000)
    assert read_picture(tmp_path / "a.gif", 1.5).size == (10, 10)
    with pytest.raises(MediaError, match="too long"):
        read_picture(tmp_path / "a.gif", 3.5)


def test_an_image_has_no_time_but_its_beginning(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    for name in ("a.png", "a.tiff"):
        for at_s in (None, 0, 0.0):
            assert read_picture(tmp_path / name, at_s).getpixel((4, 4)) == (255, 0, 0)
        with pytest.raises(UsageError, match="one image") as caught:
            read_picture(tmp_path / name, 0.5)
        _assert_sentence(caught.value)


def test_what_is_neither_is_refused_with_a_sentence(tmp_path):
    video = _write(tmp_path / "a.mp4", "libx264").read_bytes()
    files = {"text.png": b"hello, I am text\n" * 50, "empty.mp4": b"", "cut.mp4": video[: len(video) // 2]}
    files |= {"start.mp4": video[:40], "list.mp4": b"#EXTM3U\n#EXTINF:1,\na.mp4\n", "png.png": b"\x89PNG\r\n\x1a\n"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name in (*files, "missing.mp4", "nul\0.mp4", "."):
        for at_s in (None, 0.5):
            with pytest.raises(StillmotionError) as caught:
                read_picture(tmp_path / name, at_s)
            _assert_sentence(caught.value)

"""Every file is a video or has a named reason, and nothing is raised."""

from __future__ import annotations

import hashlib
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc

from stillmotion.curation import identify as module
from stillmotion.curation.identify import identify
from stillmotion.curation.records import REASONS, Failure, Video
from stillmotion.media import survey

from .encoded import Source, h264, make, write

CODECS = Path(__file__).parents[2] / "data" / "media" / "codecs"
SMALL = h264("mp4", "bframes=2")


def reason(path: Path, **more: int) -> str:
    found = identify(path, "source", **more)
    assert isinstance(found, Failure), found
    assert found.source == "source" and found.stage == "identify"
    assert found.detail.endswith(".") and found.reason in dict(REASONS)
    return found.reason


def video(path: Path) -> Video:
    found = identify(path, "source")
    assert isinstance(found, Video), found
    return found


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write(path, SMALL, 30)
    return path


def test_what_is_known_of_a_video(clip: Path) -> None:
    found = video(clip)
    data = clip.read_bytes()
    assert found.sha256 == hashlib.sha256(data).hexdigest() and found.bytes == len(data)
    assert (found.codec, found.pixel_format, found.width, found.height) == ("h264", "yuv420p", 96, 64)
    assert (found.frames, found.fps, found.duration_s) == (30, pytest.approx(25), pytest.approx(1.2))
    assert "mp4" in found.container and found.rotation == 0


@pytest.mark.parametrize("name", ["h264 ts", "vp8", "mpeg4 avi", "h264 flv", "h265 mkv"])
def test_frames_and_rate_in_other_containers(tmp_path: Path, name: str) -> None:
    found = video(make(tmp_path, name, 30))
    assert found.frames == 30 and found.fps == pytest.approx(25, rel=0.01)


def test_a_rotated_video_is_upright() -> None:
    found = video(CODECS / "nasa_13013_rotated.mp4")
    assert (found.width, found.height, found.rotation) == (270, 480, 270)


def test_discarded_frames_do_not_count() -> None:
    assert video(CODECS / "discard_first_keyframe.mp4").frames == 25


@pytest.mark.parametrize(
    "name", ["a b.mp4", 'it\'s "quoted".mp4', "line\nbreak.mp4", "映画 ü.mp4", "a:b.mp4", "x.txt", "-"]
)
def test_names_do_not_matter(clip: Path, name: str) -> None:
    found = video(clip.rename(clip.with_name(name)))
    assert found.frames == 30


def test_missing(tmp_path: Path) -> None:
    assert reason(tmp_path / "none.mp4") == "missing"
    assert reason(tmp_path / "nul\0.mp4") == "unreadable"


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    assert reason(tmp_path / "empty.mp4") == "empty"


def test_neither_folders_nor_pipes_are_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason(tmp_path / "pipe.mp4") == "not_media"
    assert reason(tmp_path) == "not_media"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(clip: Path) -> None:
    clip.chmod(0)
    assert reason(clip) == "unreadable"


def test_a_disk_that_cannot_be_read(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "_hash", broken)
    assert reason(clip) == "unreadable"


@pytest.mark.parametrize("data", [b"hello" * 50, b"<html>" * 900, bytes(5000), os.urandom(999)])
def test_what_is_no_video(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file.mp4").write_bytes(data)
    assert reason(tmp_path / "file.mp4") == "not_media"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
@pytest.mark.parametrize("front", [True, False])
def test_truncated(clip: Path, tmp_path: Path, share: float, front: bool) -> None:
    path = tmp_path / "cut.mp4"
    write(path, h264(container={"movflags": "faststart"} if front else {}), 60)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert reason(path) == "truncated"


@pytest.mark.parametrize("name", ["h264 mkv", "h264 avi"])
def test_truncated_where_the_container_tells_its_length(tmp_path: Path, name: str) -> None:
    path = make(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-2000])
    assert reason(path) == "truncated"


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_an_avi_that_was_never_finished_is_read_as_far_as_it_goes(tmp_path: Path, length: int) -> None:
    path = make(tmp_path, "h264 avi")
    data = path.read_bytes()
    path.write_bytes(data[:4] + length.to_bytes(4, "little") + data[8:])
    assert isinstance(identify(path, path.name), Video)


def write_sound(path: Path, codec: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("mkv", "pcm_s16le")])
def test_sound_alone(tmp_path: Path, suffix: str, codec: str) -> None:
    write_sound(tmp_path / f"sound.{suffix}", codec)
    assert reason(tmp_path / f"sound.{suffix}") == "no_video"


def test_a_corrupt_middle_is_a_video_still(tmp_path: Path) -> None:
    path = make(tmp_path, "h264")
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(bytes(data))
    assert video(path).frames == 80


def test_nothing_that_can_be_decoded(clip: Path) -> None:
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = os.urandom(end - start)
    clip.write_bytes(bytes(data))
    assert reason(clip) == "corrupt"


def test_an_unknown_codec(clip: Path) -> None:
    data = clip.read_bytes()
    assert data.count(b"avc1") >= 1
    clip.write_bytes(data.replace(b"avc1", b"zzz9"))
    assert reason(clip) == "unknown_codec"


def test_a_clock_that_stands_still(tmp_path: Path) -> None:
    path = tmp_path / "still.mp4"
    write(path, h264(more="bframes=0"), 3)
    data = bytearray(path.read_bytes())
    place = data.index(b"stts")  # ISO/IEC 14496-12, section 8.6.1.2: entries, then pairs of count and duration
    entries = struct.unpack(">I", data[place + 8 : place + 12])[0]
    for entry in range(entries):
        data[place + 16 + 8 * entry : place + 20 + 8 * entry] = bytes(4)
    path.write_bytes(bytes(data))
    assert reason(path) == "zero_duration"


def test_too_many_pixels(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "MAX_VIDEO_PIXELS", 95 * 64)
    assert reason(clip) == "too_many_pixels"


def test_too_many_bytes(clip: Path) -> None:
    assert reason(clip, max_bytes=100) == "too_large"
    assert isinstance(identify(clip, "source", max_bytes=10**9), Video)


@pytest.mark.parametrize("change", ["grows", "touched", "vanishes", "replaced"])
def test_a_file_that_does_not_rest(clip: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    before = module.survey

    def disturbed(path: Path) -> object:
        found = before(path)
        if change == "grows":
            with path.open("ab") as file:
                file.write(b"more")
        elif change == "touched":
            os.utime(path, ns=(0, 1))
        elif change == "vanishes":
            path.unlink()
        else:
            other = path.with_name("other")
            other.write_bytes(path.read_bytes())
            os.replace(other, path)
        return found

    monkeypatch.setattr(module, "survey", disturbed)
    assert reason(clip) == ("missing" if change == "vanishes" else "changed")


def test_hdr(tmp_path: Path) -> None:
    path = tmp_path / "hdr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = 64, 64, "yuv420p10le"
        context.color_primaries, context.color_trc = ColorPrimaries.BT2020, ColorTrc.SMPTE2084
        for number in range(5):
            frame = av.VideoFrame(64, 64, "yuv420p10le")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = video(path)
    assert (found.pixel_format, found.frames) == ("yuv420p10le", 5)


def test_variable_rate(tmp_path: Path) -> None:
    found = video(make(tmp_path, "h264 vfr"))
    assert found.frames == 80 and found.fps == pytest.approx(80 / found.duration_s)


def test_one_frame_lasts_as_long_as_the_rate_says(tmp_path: Path) -> None:
    path = tmp_path / "one.mkv"
    write(path, Source("mkv", "ffv1", {"level": "3"}, size=(48, 16)), 1)
    assert (video(path).frames, video(path).duration_s) == (1, 0.04)

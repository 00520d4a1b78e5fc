"""One pass over a video: what is shown, when, and what the planes hold."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stillmotion.errors import MediaError
from stillmotion.media import scan
from stillmotion.media.scan import sights
from stillmotion.media.writer import FrameWriter, StreamSettings


def written(path: Path, times: list[Fraction], size: tuple[int, int] = (64, 48)) -> Path:
    with FrameWriter(path, size, Fraction(25), StreamSettings(crf=10, keyframe_interval=5)) as writer:
        for number, time in enumerate(times):
            writer.write(np.full((size[1], size[0], 3), 20 + number * 10, np.uint8), time)
    return path


def test_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    times = [Fraction(number * number + 10 * number, 25) for number in range(12)]
    found = list(sights(written(tmp_path / "uneven.mp4", times)))
    assert [each.number for each in found] == list(range(12))
    assert [each.time_s for each in found] == pytest.approx([float(time) for time in times])


def test_keyframes_are_marked(tmp_path: Path) -> None:
    keys = [each.is_key for each in sights(written(tmp_path / "keys.mp4", [Fraction(k, 25) for k in range(11)]))]
    assert [number for number, is_key in enumerate(keys) if is_key] == [0, 5, 10]


def test_planes_are_those_of_the_decoder(tmp_path: Path) -> None:
    path = written(tmp_path / "grey.mp4", [Fraction(k, 25) for k in range(3)], size=(70, 50))
    with av.open(str(path)) as container:
        known = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
    for each, planes in zip(sights(path), known, strict=True):
        assert each.luma.shape == (50, 70) and each.blue is not None and each.blue.shape == (25, 35)
        np.testing.assert_array_equal(each.luma, planes[:50])
        assert not each.is_full_range and not each.is_corrupt


@pytest.mark.parametrize(("name", "content"), [("empty.mp4", b""), ("text.mp4", b"no video"), ("missing.mp4", None)])
def test_what_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match="expected a"):
        list(sights(path))


def test_the_writer_gives_the_same_bytes(tmp_path: Path) -> None:
    times = [Fraction(k, 25) for k in range(6)]
    assert written(tmp_path / "a.mp4", times).read_bytes() == written(tmp_path / "b.mp4", times).read_bytes()


@pytest.mark.parametrize(
    ("times", "late"),
    [
        ([0, 3003, 6006, 9009, 12012, 15015, 18018], []),
        ([0, 3753, 7507, 11261, 15015, 18768, 26276, 30030], [26276]),  # 23.976 a second, rounded
        ([0, 3000, 6000, 9000, 15000, 18000], []),  # too early to know
        ([0, 3000, 9000, 12000, 18000, 21000, 27000, 30000], []),  # a variable rate
        ([0, 4500, 9000, 13500, 18000, 22500, 29250], []),  # fields that are shown again
    ],
)
def test_a_clock_knows_a_gap_where_it_was_regular(times: list[int], late: list[int]) -> None:
    clock = scan._Clock()
    assert [time for time in times if clock.is_late(time)] == late

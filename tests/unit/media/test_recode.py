"""Frames decoded out of the middle of a video, and the pixel formats that x264 takes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stillmotion.errors import MediaError
from stillmotion.media.packets import FrameMap, map_frames
from stillmotion.media.recode import EdgeEncoder, WholeEncoder, decoded, nearest_format
from stillmotion.media.scan import sights

FRAMES = 60


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each frame is grey, of its own brightness; every twentieth is a keyframe."""
    path = tmp_path_factory.mktemp("video") / "grey.mp4"
    with av.open(str(path), "w") as container:
        params = "keyint=20:min-keyint=20:scenecut=0:bframes=3:open-gop=1"
        stream = container.add_stream("libx264", rate=25, options={"x264-params": params, "qp": "1"})
        stream.codec_context.width, stream.codec_context.height = 32, 32
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 32), 20 + 3 * number, np.uint8), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def frames(video: Path) -> FrameMap:
    seen = [(sight.packet, sight.time_s) for sight in sights(video)]
    return map_frames(video, np.array([place for place, _ in seen]), np.array([time for _, time in seen]))


def brightness(frame: av.VideoFrame) -> float:
    return float(frame.to_ndarray()[:32].mean())


@pytest.mark.parametrize(
    "spans", [[(0, 59)], [(25, 30)], [(3, 5), (21, 22), (58, 59)], [(18, 24), (25, 26)], [(59, 59)], []]
)
def test_exactly_the_frames_of_the_spans(video: Path, frames: FrameMap, spans: list[tuple[int, int]]) -> None:
    found = [(number, brightness(frame)) for number, frame in decoded(video, frames, spans)]
    wanted = [number for first, last in spans for number in range(first, last + 1)]
    assert [number for number, _ in found] == wanted
    for number, bright in found:
        assert bright == pytest.approx(20 + 3 * number, abs=1)


def test_little_more_is_decoded(video: Path, frames: FrameMap) -> None:
    assert frames.entry_before(45) > frames.entry_before(25) > 0
    assert frames.without_entries().entry_before(45) == 0


@pytest.mark.parametrize(
    ("given", "size", "expected"),
    [
        ("yuv420p", (64, 64), "yuv420p"),
        ("yuvj420p", (64, 64), "yuv420p"),
        ("nv12", (64, 64), "yuv420p"),
        ("yuv422p", (64, 64), "yuv422p"),
        ("yuv444p", (33, 31), "yuv444p"),
        ("yuv420p", (33, 64), "yuv444p"),
        ("yuv420p", (64, 33), "yuv444p"),
        ("yuv422p", (64, 33), "yuv422p"),
        ("yuv411p", (64, 64), "yuv422p"),
        ("yuv420p10le", (64, 64), "yuv420p10le"),
        ("yuv422p12le", (64, 64), "yuv422p10le"),
        ("bgr0", (64, 64), "yuv444p"),
        ("gbrp10le", (64, 64), "yuv444p10le"),
        ("gray", (64, 64), "yuv420p"),
        ("yuva420p", (64, 64), "yuv420p"),
    ],
)
def test_nearest_formats(given: str, size: tuple[int, int], expected: str) -> None:
    assert nearest_format(av.VideoFrame(*size, given)) == expected


def test_what_the_encoder_refuses_is_said(tmp_path: Path, frames: FrameMap) -> None:
    frame = av.VideoFrame(33, 31, "yuv420p")  # half a colour sample
    with pytest.raises(MediaError, match=r"refuses.*\.$"):
        EdgeEncoder(frames, 14).add(0, frame)
    assert EdgeEncoder(frames, 14).finish() == []
    with WholeEncoder(frames, [0], tmp_path / "odd.mp4", 0, 14) as encoder:
        assert encoder.add(0, frame).format.name == "yuv444p"
        encoder.finish()


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_pictures_are_turned_clockwise(
    tmp_path: Path, frames: FrameMap, rotation: int, corner: tuple[int, int]
) -> None:
    frame = av.VideoFrame(48, 32, "yuv420p")
    for plane, value in zip(frame.planes, (16, 128, 128), strict=True):
        plane.update(np.full((plane.height, plane.line_size), value, np.uint8).tobytes())
    luma = np.full((32, frame.planes[0].line_size), 16, np.uint8)
    luma[:16, :24] = 235  # the upper left quarter
    frame.planes[0].update(luma.tobytes())
    with WholeEncoder(frames, [0], tmp_path / "turned.mp4", rotation, 14) as encoder:
        turned = encoder.add(0, frame)
        encoder.finish()
    assert (turned.width, turned.height) == ((32, 48) if rotation % 180 else (48, 32))
    rows = turned.to_ndarray()[: turned.height]
    halves = [np.array_split(half, 2, axis=1) for half in np.array_split(rows, 2, axis=0)]
    means = {(row, column): halves[row][column].mean() for row in (0, 1) for column in (0, 1)}
    assert max(means, key=lambda place: means[place]) == corner

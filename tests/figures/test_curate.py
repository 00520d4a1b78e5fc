"""The curation's engine under fifty kills, and over a film of ten hours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from stillmotion.media.video import write_video

from ..e2e.test_curate import FPS, command, kill_and_resume, make_films, uninterrupted

pytestmark = pytest.mark.figures


def test_fifty_kills(tmp_path: Path, record: Callable[[str, float, str], None]) -> None:
    (tmp_path / "films").mkdir()
    films = make_films(tmp_path / "films")
    whole = uninterrupted(films, tmp_path / "whole" / "set")  # a report names its folder
    redone = [
        count for number in range(10) for count in kill_and_resume(films, whole, tmp_path / f"{number}", 5, seed=number)
    ]
    record("curation: kills that a run went on from, to the same bytes", len(redone), "50")
    record("curation: finished results that had to be made again", sum(redone), "0")
    assert len(redone) == 50 and not any(redone)


def test_memory_does_not_grow_with_a_film(tmp_path: Path, record: Callable[[str, float, str], None]) -> None:
    texture = np.random.default_rng(1).integers(0, 255, (12, 16, 3), np.uint8).repeat(6, 0).repeat(6, 1)
    minute = tmp_path / "minute.mp4"
    write_video(minute, np.stack([np.roll(texture, number // 4, axis=1) for number in range(1500)]), FPS)
    film = tmp_path / "film.mkv"
    repeat(minute, film, 600)
    more = ("--workers", "0", "--set", "curation.clips.max_clips=20")
    process = subprocess.Popen(command(film, tmp_path / "set", *more), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # else it warns that nobody has asked
    assert process.returncode == 0
    gigabytes = usage.ru_maxrss * 1024 / 1e9
    record("curation of a film of 10 hours: main memory of a worker, GB", gigabytes, "at most 1.5")
    assert gigabytes <= 1.5


def repeat(source: Path, target: Path, times: int) -> None:
    """The packets of a video over and over, as one long video."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        packets = [packet for packet in given.demux(stream) if packet.dts is not None]
        times_of = [(packet.pts or 0, packet.dts) for packet in packets]
        length = max(shown for shown, _ in times_of) + (packets[0].duration or 1)
        for number in range(times):
            for packet, (shown, decoded) in zip(packets, times_of, strict=True):
                packet.stream, packet.time_base = copy, stream.time_base
                packet.pts, packet.dts = shown + number * length, decoded + number * length
                made.mux(packet)

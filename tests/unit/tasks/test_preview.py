"""The preview file of a generation: there from the start, of every video, and never the end of one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillmotion.errors import StillmotionError, UsageError
from stillmotion.events import Progress, unwatched
from stillmotion.media import strip
from stillmotion.tasks.generate import generate
from stillmotion.tasks.preview import PreviewFile
from stillmotion.tasks.settings import GenerateSettings

FRAMES = np.zeros((2, 8, 8, 3), np.uint8)


def asked(folder: Path, **given: object) -> GenerateSettings:
    image = folder / "a.png"
    Image.new("RGB", (40, 30), (10, 200, 90)).save(image)
    values = {"steps": 2, "frames": 2, "size": (64, 64), "dtype": "float32", "output": folder / "out.mkv"} | given
    return GenerateSettings(image=str(image), **values)  # type: ignore[arg-type]


def test_the_video_is_the_same_byte_for_byte_and_the_file_shows_it(tmp_path: Path) -> None:
    list(generate(asked(tmp_path)))
    plain = (tmp_path / "out.mkv").read_bytes()
    seen: list[Progress] = []
    settings = asked(tmp_path, preview=tmp_path / "now.gif", preview_every=1, force=True)
    made = list(generate(settings, seen.append))
    assert (tmp_path / "out.mkv").read_bytes() == plain
    assert made[0].notes == tuple(note for note in made[0].notes if "preview" not in note)
    assert [event.done for event in seen if event.preview is not None] == [1, 2]
    with Image.open(tmp_path / "now.gif") as image:
        red, green, blue = np.asarray(image.convert("RGB")).reshape(-1, 3).mean(0)
    assert green > red + 50 and green > blue + 50


def test_events_carry_previews_where_no_file_is_wanted(tmp_path: Path) -> None:
    seen: list[Progress] = []
    list(generate(asked(tmp_path, preview_every=2), seen.append))
    assert [event.done for event in seen if event.preview is not None] == [2]


def test_what_cannot_be_written_fails_before_the_model_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillmotion.tasks.generate.load", lambda *a, **k: pytest.fail("weights were read"))
    (tmp_path / "file").write_text("x")
    for preview, sentence in (
        (tmp_path / "file" / "now.gif", "cannot be written"),
        (tmp_path / "now.mp4", "expected a file name that ends in"),
        (tmp_path / "a.png", "already exists and is no preview"),
    ):
        with pytest.raises(StillmotionError, match=sentence):
            list(generate(asked(tmp_path, preview=preview)))
    with pytest.raises(UsageError, match="preview and output are both"):
        list(generate(asked(tmp_path, preview=tmp_path / "x.gif", output=tmp_path / "x.gif")))

    def full(*ignored: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(strip.WRITERS, ".gif", full)
    with pytest.raises(StillmotionError, match="disk is full"):
        list(generate(asked(tmp_path, preview=tmp_path / "now.gif")))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.png", "file"]


@pytest.mark.slow
def test_a_disk_that_fills_up_later_ends_the_previews_and_not_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = strip.WRITERS[".gif"], []

    def fills(path: Path, pictures: list[Image.Image], duration: int) -> None:
        calls.append(path)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, pictures, duration)

    monkeypatch.setitem(strip.WRITERS, ".gif", fills)
    made = list(generate(asked(tmp_path, steps=4, preview=tmp_path / "now.gif", preview_every=1)))
    assert made[0].path is not None and len(calls) == 3
    assert [note for note in made[0].notes if "previews ended early" in note and "disk is full" in note]
    assert (tmp_path / "now.gif").exists()


def test_writing_takes_one_percent_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("stillmotion.tasks.preview.time.perf_counter", lambda: now[0])
    written: list[float] = []

    def slow(path: Path, frames: np.ndarray, play_fps: float) -> None:
        written.append(now[0])
        now[0] += 0.5

    monkeypatch.setattr("stillmotion.tasks.preview.write_strip", slow)
    file = PreviewFile(tmp_path / "now.gif", 8.0, unwatched, is_sparing=True)
    file(Progress("denoise", 0, 400))
    for done in range(1, 401):
        now[0] += 1.0
        file(Progress("denoise", done, 400, FRAMES))
    spent = 0.5 * (len(written) - 1)
    assert 3 <= len(written) - 1 <= 9 and spent <= 0.01 * now[0] + 0.5
    generous = PreviewFile(tmp_path / "now.gif", 8.0, unwatched, is_sparing=False)
    before = len(written)
    for done in range(3):
        generous(Progress("denoise", done, 3, FRAMES))
    assert len(written) == before + 3

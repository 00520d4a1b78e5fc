"""Files in, numbers out: what cannot be read stops no other file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillmotion.cli import main
from stillmotion.errors import ConfigError, MediaError
from stillmotion.media.pixels import to_uint8
from stillmotion.media.video import write_video
from stillmotion.tasks.generate import generate
from stillmotion.tasks.score import ScoreSettings, score
from stillmotion.tasks.settings import GenerateSettings
from stillmotion.training.toys import ToyConfig, render_clip

pytestmark = pytest.mark.slow  # the whole file takes many seconds


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Five frames of a rendered scene as an mp4, its first frame beside it as a png."""
    frames = to_uint8(render_clip(ToyConfig(frames=5), 3).frames)
    write_video(tmp_path / "clip.mp4", frames, 7)
    Image.fromarray(frames[0]).save(tmp_path / "given.png")
    return tmp_path / "clip.mp4"


def test_a_bad_file_carries_its_reason_and_stops_no_other(clip: Path) -> None:
    damaged = clip.with_name("cut.mp4")
    damaged.write_bytes(clip.read_bytes()[:2000])
    bad, good = score(ScoreSettings(files=(damaged, clip)))
    assert bad.measures is None and bad.error is not None and "cut.mp4" in bad.error
    assert good.error is None and good.measures is not None
    assert (good.size, good.frames, good.fps) == ((128, 80), 5, 7)


def test_the_given_image_is_fitted_and_compared(clip: Path) -> None:
    (scored,) = score(ScoreSettings(files=(clip,), image=clip.with_name("given.png")))
    assert scored.measures is not None and scored.measures.first_frame_psnr is not None
    assert scored.measures.first_frame_psnr > 30


def test_the_true_rate_wins_over_the_files(clip: Path) -> None:
    (as_played,) = score(ScoreSettings(files=(clip,)))
    (as_made,) = score(ScoreSettings(files=(clip,), fps=14))
    assert as_played.measures is not None and as_made.measures is not None
    assert as_made.measures.motion.speed == pytest.approx(2 * as_played.measures.motion.speed)


def test_one_frame_is_a_sentence(clip: Path) -> None:
    write_video(clip.with_name("one.mp4"), np.zeros((1, 16, 16, 3), np.uint8), 7)
    (scored,) = score(ScoreSettings(files=(clip.with_name("one.mp4"),)))
    assert scored.error is not None and "at least 2" in scored.error


def test_wrong_requests_are_refused_before_a_video_is_read(clip: Path) -> None:
    with pytest.raises(ConfigError, match="files"):
        next(score(ScoreSettings(files=())))
    with pytest.raises(ConfigError, match="max_frames"):
        next(score(ScoreSettings(files=(clip,), max_frames=1)))
    with pytest.raises(MediaError, match="does not exist"):
        next(score(ScoreSettings(files=(clip,), image=Path("nowhere.png"))))


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_the_command_scores_all_and_fails_for_one(
    clip: Path, form: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(clip), str(clip.with_name("none.mp4")), *form]) == 1
    shown = capsys.readouterr()
    assert "none.mp4 does not exist" in shown.err
    if form:
        good, bad = (json.loads(line) for line in shown.out.splitlines())
        assert good["measures"]["motion"]["speed"] > 0 and good["error"] is None
        assert bad["measures"] is None and "none.mp4" in bad["error"]
    else:
        assert "sharpness drift" in shown.out and "heights/s" in shown.out


def test_an_image_that_is_the_first_frame_is_valid_json(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    infinite: Callable[..., float] = lambda *_: float("inf")  # noqa: E731
    monkeypatch.setattr("stillmotion.evaluation.measures.psnr", infinite)
    assert main(["score", str(clip), "--image", str(clip.with_name("given.png")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measures"]["first_frame_psnr"] is None


def test_a_recipe_brings_the_image_and_the_true_rate(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 72, 3), np.uint8))
    picture.save(tmp_path / "a.png")
    values = {"steps": 1, "frames": 3, "size": (72, 64), "dtype": "float32", "fps": 6, "play_fps": 12}
    list(generate(GenerateSettings(image=str(tmp_path / "a.png"), output=tmp_path / "a.mkv", **values)))
    (scored,) = score(ScoreSettings(files=(tmp_path / "a.mkv",)))
    (told,) = score(ScoreSettings(files=(tmp_path / "a.mkv",), image=tmp_path / "a.png", fps=6))
    assert scored.fps == 6 and scored.measures is not None and told.measures is not None
    assert scored.measures == told.measures and scored.measures.first_frame_psnr is not None

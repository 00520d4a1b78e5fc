"""generate() from Python: one Made a video, and a Cancelled that ends all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from stillmotion.errors import Cancelled, UsageError
from stillmotion.events import Progress
from stillmotion.tasks.generate import generate, plan
from stillmotion.tasks.settings import GenerateSettings


def asked(folder: Path, **given: object) -> GenerateSettings:
    images = folder / "in"
    images.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), (10, 200, 90)).save(images / name)
    values = {"steps": 1, "frames": 2, "size": (64, 64), "dtype": "float32", "output": folder / "out"} | given
    return GenerateSettings(image=str(images), **values)  # type: ignore[arg-type]


def test_each_video_is_reported_with_its_seed_and_times(tmp_path: Path) -> None:
    stages: list[str] = []
    made = list(generate(asked(tmp_path, seed=4), lambda event: stages.append(event.stage)))
    assert [(m.image.name, m.seed, m.path and m.path.name) for m in made] == [
        ("a.png", 4, "a-seed4.mp4"),
        ("b.png", 5, "b-seed5.mp4"),
    ]
    assert {"encode", "denoise", "decode", "write"} <= set(made[0].seconds) and made[0].error is None
    assert [stage for stage in dict.fromkeys(stages)][-4:] == ["encode", "denoise", "decode", "write"]


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode", "write"])
def test_cancelling_at_any_stage_ends_everything_and_leaves_nothing(stage: str, tmp_path: Path) -> None:
    def stop(event: Progress) -> None:
        if event.stage == stage:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        list(generate(asked(tmp_path), stop))
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_one_file_name_for_two_videos_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 videos"):
        next(generate(asked(tmp_path, output=tmp_path / "one.mp4")))


def test_a_plan_counts_the_videos_and_their_seeds(tmp_path: Path) -> None:
    planned = plan(asked(tmp_path, seed=9, count=2))
    assert list(planned.request.seeds) == [9, 10, 11, 12] and len(planned.request.images) == 2
    assert planned.seconds > 0 and (planned.request.width, planned.request.height) == (64, 64)


def test_python_settings_are_read_as_those_of_the_terminal(tmp_path: Path) -> None:
    planned = plan(asked(tmp_path, size="72x64"))
    assert (planned.request.width, planned.request.height) == (72, 64)
    with pytest.raises(UsageError, match="frames"):
        plan(asked(tmp_path, frames="many"))


@pytest.mark.parametrize("given", [{"steps": 0}, {"size": (100, 100)}, {"decoder": "none"}])
def test_a_refused_request_makes_no_folder(given: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        list(generate(asked(tmp_path, **given)))
    assert not (tmp_path / "out").exists()

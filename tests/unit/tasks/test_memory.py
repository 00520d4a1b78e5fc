"""--memory from the request to the recipe: refused before anything is read, kept to, recorded, and repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stillmotion.errors import StillmotionError, UsageError
from stillmotion.pipelines import image_to_video
from stillmotion.placement import Placement, Savings, Stage
from stillmotion.recipe import Recipe, read_recipe
from stillmotion.tasks import generate as module
from stillmotion.tasks import memory
from stillmotion.tasks.generate import generate, plan
from stillmotion.tasks.grid import GridSettings, grid
from stillmotion.tasks.repeat import RepeatSettings, repeat
from stillmotion.tasks.settings import GenerateSettings


def asked(folder: Path, **given: Any) -> GenerateSettings:
    image = folder / "photo.png"
    Image.new("RGB", (40, 30), (10, 200, 90)).save(image)
    quick = {"steps": 1, "frames": 3, "size": (64, 64), "dtype": "float32", "output": folder / "a.mp4"}
    return GenerateSettings(image=str(image), **quick | given)


def test_a_budget_below_the_floor_is_refused_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", lambda *given, **named: pytest.fail("weights were read"))
    with pytest.raises(UsageError, match=r"memory is 5 MB, and 3 frames of 64x64 with tiny need"):
        list(generate(asked(tmp_path, memory=5 * 10**6)))


@pytest.mark.slow
def test_a_cpu_is_left_alone_where_memory_suffices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(asked(tmp_path))
    assert planned.memory.placement == Placement(device="cpu", dtype="float32")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 120 * 10**6)
    short = plan(asked(tmp_path)).memory
    assert short.placement != planned.memory.placement and short.peak_bytes < planned.memory.peak_bytes
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)  # what fits least badly is tried
    assert plan(asked(tmp_path)).memory.placement.offload == "sequential"
    with pytest.raises(UsageError, match="memory is"):
        plan(asked(tmp_path, memory="auto"))


def test_what_python_holds_counts_towards_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "held_bytes", lambda: 10**9)
    with pytest.raises(UsageError, match=r"memory is 1\.00 GB"):
        plan(asked(tmp_path, memory="1GB"))
    assert plan(asked(tmp_path, memory="2GB")).memory.placement.offload == "none"


SLOW = pytest.mark.slow


@pytest.mark.parametrize("wish", [{"memory": "2GB"}, *(pytest.param(w, marks=SLOW) for w in ({"memory": "auto"}, {}))])
def test_the_model_itself_does_not_count_against_the_second_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, str]
) -> None:
    taken = 0

    def load(*given: Any, **named: Any) -> Any:
        nonlocal taken
        taken = 4 * 10**9  # as a large model would
        return read(*given, **named)

    read = module.load
    monkeypatch.setattr(module, "load", load)
    monkeypatch.setattr(memory, "held_bytes", lambda: taken)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4 * 10**9 - taken)
    made = list(generate(asked(tmp_path, count=2, output=tmp_path, **wish)))
    plans = [each.recipe.plan for each in made if each.recipe is not None]
    assert taken and len(plans) == 2 and plans[0] == plans[1] and plans[0].offload == "none"


@pytest.mark.slow
def test_a_small_budget_is_kept_recorded_and_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "held_bytes", lambda: 0)
    floor = plan(asked(tmp_path)).memory
    whole = next(generate(asked(tmp_path)))
    with pytest.raises(UsageError) as caught:
        plan(asked(tmp_path, memory=10**6, force=True))
    need = int(str(caught.value).partition("tiny need ")[2].split()[0]) + 1
    small = next(generate(asked(tmp_path, memory=f"{need}MB", output=tmp_path / "small.mp4")))
    assert small.recipe is not None and whole.recipe is not None and small.path is not None
    assert small.recipe.plan.offload == "sequential"
    assert floor.peak_bytes > need * 10**6
    again = repeat(RepeatSettings(file=small.path, output=tmp_path / "again.mp4"))
    assert again.is_identical and again.differences == ()
    other = repeat(RepeatSettings(file=small.path, output=tmp_path / "other.mp4", set=("memory=20GB", "offload=none")))
    assert "offload none instead of sequential" in other.differences


@pytest.mark.slow
def test_running_out_of_memory_is_said_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, decode = [1], image_to_video.decode

    def failing(*given: Any) -> torch.Tensor:
        if left:
            left.pop()
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(*given)

    monkeypatch.setattr(image_to_video, "decode", failing)
    made = next(generate(asked(tmp_path)))
    assert made.recipe is not None and made.recipe.plan.savings == Savings(decode_frames=1)
    assert any("ran out of memory in decode" in note for note in made.notes)
    assert made.path is not None
    again = repeat(RepeatSettings(file=made.path, output=tmp_path / "again.mp4"))
    assert again.is_identical and again.made.recipe is not None and again.made.recipe.plan == made.recipe.plan
    other = repeat(RepeatSettings(file=made.path, output=tmp_path / "other.mp4", set=("memory=20GB",)))
    assert "decode_frames None instead of 1" in other.differences


@pytest.mark.parametrize("times", [1, 2])
def test_where_the_model_does_not_fit_it_is_offloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    left, adopt = [1] * times, Stage.adopt

    def failing(stage: Stage, placement: Placement) -> None:
        if left:
            left.pop()
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3 bytes.")
        adopt(stage, placement)

    monkeypatch.setattr(Stage, "adopt", failing)
    made = next(generate(asked(tmp_path)))
    assert made.recipe is not None and made.recipe.plan.offload == ("model", "sequential")[times - 1]
    said = [note for note in made.notes if "this machine ran out of memory in load; went on with offload" in note]
    assert len(said) == times


def test_a_model_that_never_fits_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(stage: Stage, placement: Placement) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Stage, "adopt", failing)
    with pytest.raises(StillmotionError, match="memory ran out in load at 3 frames of 64x64, also with every saving"):
        next(generate(asked(tmp_path)))


def test_running_out_of_memory_while_writing_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*given: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(module, "write_video", failing)
    with pytest.raises(StillmotionError, match=r"memory ran out at \d+ frames of \d+x\d+; try"):
        next(generate(asked(tmp_path)))


def test_a_recipe_from_before_savings_still_reads(tmp_path: Path) -> None:
    made = next(generate(asked(tmp_path)))
    assert made.recipe is not None
    document = json.loads(made.recipe.to_json())
    del document["plan"]["savings"]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(document))
    assert read_recipe(old) == made.recipe and isinstance(made.recipe, Recipe)


def test_memory_as_the_recipe_says_needs_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no recipe"):
        plan(asked(tmp_path, memory="recipe"))


@pytest.mark.slow
def test_a_grid_goes_on_where_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(tmp_path)
    left, decode = [1], image_to_video.decode

    def failing(*given: Any) -> torch.Tensor:
        if left:
            left.pop()
            raise MemoryError
        return decode(*given)

    monkeypatch.setattr(image_to_video, "decode", failing)
    quick = ("steps=1", "frames=2", "size=64x64", "dtype=float32")
    settings = GridSettings(
        image=str(tmp_path / "photo.png"), across="seed=1,2", set=quick, output=tmp_path / "grid.mp4"
    )
    assert grid(settings).path == tmp_path / "grid.mp4" and not left and (tmp_path / "grid.mp4").exists()

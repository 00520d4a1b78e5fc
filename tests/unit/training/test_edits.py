"""Edited videos: their truth, frame by frame."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from stillmotion.curation.observe import observe
from stillmotion.training.edits import EditConfig, Join, arrival_map, blend, draw_edit, edit_frames, write_edit
from stillmotion.training.shots import ShotTraining, draw_example, fit, labels

SMALL = EditConfig(width=96, height=54, shots=6, shot_s=(0.5, 1.0))
OLD, NEW = np.full((54, 96, 3), 200, np.uint8), np.full((54, 96, 3), 40, np.uint8)


def test_a_video_is_a_function_of_its_seed() -> None:
    one, same, other = (np.stack(list(edit_frames(draw_edit(SMALL, seed)))) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert one.shape != other.shape or (one != other).any()


def test_the_truth_covers_the_frames_between_shots() -> None:
    edit = draw_edit(SMALL, 8)
    assert len(edit.transitions) == SMALL.shots - 1
    for each, join in zip(edit.transitions, edit.joins, strict=True):
        assert each.after - each.before - 1 == join.frames
    assert edit.transitions[-1].after + edit.shots[-1].frames == edit.frames == len(list(edit_frames(edit)))
    assert list(edit.times) == sorted(set(edit.times))


def test_outside_transitions_a_frame_shows_one_shot() -> None:
    """With still cameras and nothing else, frames change only where the truth says so."""
    edit = draw_edit(dataclasses.replace(SMALL, bars=0.0), 11)
    still = tuple(
        dataclasses.replace(
            shot,
            path=shot.path * 0,
            blur=shot.blur * 0,
            gain=shot.gain * 0 + 1,
            lift=shot.lift * 0,
            bars=shot.bars * 0,
            sprites=(),
            captions=(),
        )
        for shot in edit.shots
    )
    frames = np.stack(list(edit_frames(dataclasses.replace(edit, shots=still, grain=None)))).astype(int)
    changes = np.flatnonzero(np.abs(np.diff(frames, axis=0)).max(axis=(1, 2, 3)) > 0)
    inside = {number for each in edit.transitions for number in range(each.before, each.after)}
    assert set(changes) <= inside
    for each, old, new in zip(edit.transitions, still, still[1:], strict=False):
        is_seen = any(each.before <= number < each.after for number in changes)
        assert is_seen or old.canvas is new.canvas  # a jump within one place, which a camera at rest does not make


@pytest.mark.parametrize("step", [0, 4, 8])
def test_a_dissolve_is_linear(step: int) -> None:
    share = (step + 1) / 10
    assert abs(float(blend(Join("dissolve", 9), step, OLD, NEW, None).mean()) - (200 - 160 * share)) < 1


@pytest.mark.parametrize("half", ["", "out", "in"])
def test_a_fade_meets_its_level_between_its_ways(half: str) -> None:
    join = Join("fade", 12, level=0, hold=4, half=half)  # pyright: ignore[reportArgumentType]
    levels = [blend(join, step, OLD, NEW, None).mean() for step in range(12)]
    assert sum(level == 0 for level in levels) == 4
    first = levels.index(0)
    assert first == {"": 4, "out": 8, "in": 0}[half]
    assert levels[:first] == sorted(levels[:first], reverse=True)
    assert levels[first + 4 :] == sorted(levels[first + 4 :])


@pytest.mark.parametrize("pattern", ["edge", "iris", "clock", "doors"])
def test_a_wipe_comes_to_each_place_once(pattern: str) -> None:
    join = Join("wipe", 10, pattern=pattern, angle=1.0, softness=0.02)  # pyright: ignore[reportArgumentType]
    arrival = arrival_map(join, (96, 54))
    assert (arrival.min(), arrival.max()) == (0.0, 1.0)
    shown = np.stack([blend(join, step, OLD, NEW, arrival)[..., 0] for step in range(10)]).astype(int)
    assert (np.diff(shown, axis=0) <= 0).all()
    assert 40 < shown[0].mean() < 200 and shown[-1].mean() < shown[0].mean()


def test_the_file_holds_every_frame_at_its_time(tmp_path: Path) -> None:
    edit = draw_edit(dataclasses.replace(SMALL, uneven=1.0), 4)
    assert write_edit(tmp_path / "edit.mp4", edit) == edit.transitions
    found = observe(tmp_path / "edit.mp4", [])
    start = edit.times[0]
    np.testing.assert_allclose(found.times_s, [float(time - start) for time in edit.times], atol=1e-4)


def test_labels_follow_the_truth() -> None:
    edit = draw_edit(SMALL, 8)
    state, cut = labels(edit.transitions, edit.frames)
    assert cut.sum() == sum(each.kind == "cut" for each in edit.transitions)
    assert (state > 0).sum() == sum(join.frames for join in edit.joins)


def test_training_learns_and_repeats_itself() -> None:
    cfg = ShotTraining(videos=1, steps=12, batch=2, frames=96, width=8, sizes=((96, 54),))
    examples = [draw_example(cfg, 1, ())]
    one, same = fit(cfg, examples), fit(cfg, examples)
    assert all((a == b).all() for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    fresh = fit(dataclasses.replace(cfg, steps=0), examples)
    assert (one.enter.weight != fresh.enter.weight).any()

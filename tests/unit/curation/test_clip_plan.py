"""Spans of frames that become clips, against what is counted by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from stillmotion.config import to_tree
from stillmotion.curation.clip_plan import ClipConfig, Loss, footage_loss, plan_clips
from stillmotion.curation.observe import Observed
from stillmotion.curation.records import Span, Transition
from stillmotion.errors import ConfigError

FPS = 25


def seen(frames: int, keys: tuple[int, ...] = (0,), corrupt: tuple[int, ...] = (), fps: float = FPS) -> Observed:
    numbers = np.arange(frames)
    return Observed(numbers / fps, np.isin(numbers, keys), np.isin(numbers, corrupt), {})


def test_shots_become_clips_off_gradual_transitions() -> None:
    transitions = [Transition("cut", 99, 100), Transition("dissolve", 199, 212)]
    shots = [Span(0, 99), Span(100, 199), Span(212, 399)]
    found = plan_clips(shots, transitions, seen(400), ClipConfig(gradual_margin=3, cut_margin=1))
    assert found == [Span(0, 98), Span(101, 196), Span(215, 399)]


def test_the_ends_of_a_video_have_no_margin() -> None:
    assert plan_clips([Span(0, 99)], [], seen(100), ClipConfig(cut_margin=9, gradual_margin=9)) == [Span(0, 99)]


def test_what_is_too_short_is_dropped() -> None:
    shots = [Span(0, 49), Span(50, 98), Span(99, 199)]
    assert plan_clips(shots, [], seen(200), ClipConfig(min_s=2.0)) == [Span(0, 49), Span(99, 199)]


def test_a_long_shot_is_split_evenly() -> None:
    found = plan_clips([Span(0, 999)], [], seen(1000), ClipConfig(max_s=15.0))
    assert [span.frames for span in found] == [334, 333, 333]
    assert found[0].first == 0 and found[-1].last == 999
    assert all(one.last + 1 == other.first for one, other in itertools.pairwise(found))


def test_a_long_shot_is_split_at_a_keyframe_that_is_near() -> None:
    found = plan_clips([Span(0, 999)], [], seen(1000, keys=(0, 300, 360, 700, 980)), ClipConfig(max_s=16.0))
    assert [span.first for span in found] == [0, 360, 700]


@pytest.mark.parametrize("seed", range(20))
def test_no_piece_is_longer_than_asked_and_nothing_is_lost(seed: int) -> None:
    draw = np.random.default_rng(seed)
    frames = int(draw.integers(200, 3000))
    keys = tuple(np.cumsum(draw.integers(1, 200, 400)).tolist())
    cfg = ClipConfig(min_s=0.04, max_s=float(draw.uniform(3, 12)))
    observed = seen(frames, keys)
    found = plan_clips([Span(0, frames - 1)], [], observed, cfg)
    assert sum(span.frames for span in found) == frames
    assert max(span.frames for span in found) / FPS <= cfg.max_s + 1 / FPS + 1e-9
    assert footage_loss([Span(0, frames - 1)], found, observed).share == pytest.approx(0, abs=1e-9)


def test_no_piece_becomes_too_short_for_a_keyframe() -> None:
    cfg = ClipConfig(min_s=4, max_s=10)
    found = plan_clips([Span(0, 254)], [], seen(255, keys=(0, 97)), cfg)  # 10.2 s, and a keyframe at 3.88 s
    assert found == [Span(0, 127), Span(128, 254)]


def test_where_even_pieces_are_too_short_whole_ones_are_taken() -> None:
    found = plan_clips([Span(0, 224)], [], seen(225), ClipConfig(min_s=5, max_s=8))  # 9 s are 2 x 4.5
    assert found == [Span(0, 199)]


def test_damage_is_left_out_up_to_the_next_keyframe() -> None:
    observed = seen(400, keys=(0, 100, 200, 300), corrupt=(130, 131))
    found = plan_clips([Span(0, 399)], [], observed, ClipConfig(damage_margin=2))
    assert found == [Span(0, 127), Span(200, 399)]


def test_damage_of_a_keyframe_lasts_until_another() -> None:
    observed = seen(300, keys=(0, 100, 200), corrupt=(100,))
    assert plan_clips([Span(0, 299)], [], observed, ClipConfig(damage_margin=0)) == [Span(0, 99), Span(200, 299)]


def test_damage_without_a_keyframe_behind_it_spoils_the_rest() -> None:
    observed = seen(300, corrupt=(150,))
    assert plan_clips([Span(0, 299)], [], observed, ClipConfig(damage_margin=0)) == [Span(0, 149)]


def test_at_most_so_many_clips_spread_over_the_video() -> None:
    shots = [Span(start, start + 59) for start in range(0, 600, 60)]
    found = plan_clips(shots, [], seen(600), ClipConfig(max_clips=3))
    assert [span.first for span in found] == [0, 240, 540]


def test_margins_that_leave_nothing() -> None:
    transitions = [Transition("fade", 9, 20), Transition("fade", 30, 40)]
    assert plan_clips([Span(20, 30)], transitions, seen(60), ClipConfig(min_s=0.01, gradual_margin=9)) == []


def test_shots_beyond_the_video_are_cut_to_it() -> None:
    assert plan_clips([Span(0, 10_000)], [], seen(100), ClipConfig()) == [Span(0, 99)]


def test_one_frame_has_no_length() -> None:
    assert plan_clips([Span(0, 0)], [], seen(1), ClipConfig(min_s=0.01)) == []


def test_variable_rate_counts_seconds_not_frames() -> None:
    times = np.concatenate([np.arange(100) * 0.01, 1 + np.arange(100) * 0.1])
    observed = dataclasses.replace(seen(200), times_s=times)
    assert plan_clips([Span(0, 99), Span(100, 199)], [], observed, ClipConfig()) == [Span(100, 199)]


def test_loss_in_seconds() -> None:
    loss = footage_loss([Span(0, 99), Span(100, 199)], [Span(0, 99), Span(150, 199)], seen(200))
    assert (loss.good_s, loss.kept_s) == (pytest.approx(8), pytest.approx(6))
    assert loss.share == pytest.approx(0.25)
    assert Loss(0.0, 0.0).share == 0.0


@pytest.mark.parametrize(
    "wrong", [{"min_s": 5, "max_s": 2}, {"min_s": 0}, {"mode": "cut"}, {"max_clips": 0}, {"max_loss": 2}, {"fps": -1}]
)
def test_settings_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        plan_clips([Span(0, 9)], [], seen(10), ClipConfig(**wrong))  # type: ignore[arg-type]


def test_settings_are_plain_values() -> None:
    assert to_tree(ClipConfig())["mode"] == "edges"


def test_a_gap_in_the_times_ends_a_clip() -> None:
    times = np.arange(120) / 25
    times[61:] += 3600
    seen = Observed(times, np.arange(120) % 10 == 0, np.zeros(120, bool), {})
    cfg = ClipConfig(min_s=1)
    assert plan_clips([Span(0, 119)], [], seen, cfg) == [Span(0, 60), Span(61, 119)]
    assert footage_loss([Span(0, 60), Span(61, 119)], [Span(0, 60)], seen).kept_s == pytest.approx(61 / 25)


def test_a_slideshow_has_no_gaps() -> None:
    seen = Observed(np.arange(6) * 12.0, np.ones(6, bool), np.zeros(6, bool), {})
    assert plan_clips([Span(0, 5)], [], seen, ClipConfig(max_s=100)) == [Span(0, 5)]

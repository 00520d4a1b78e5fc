"""Transitions found in generated videos, and decided from probabilities that are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stillmotion.config import parse, to_tree
from stillmotion.curation.agreement import agreement
from stillmotion.curation.cascade import Cascade
from stillmotion.curation.observe import Observed, observe
from stillmotion.curation.records import Span, Transition
from stillmotion.curation.shot_features import HALO, features
from stillmotion.curation.shots import KINDS, OnePass, ShotConfig, ShotObserver, find_transitions, shots_between
from stillmotion.curation.thumbnails import CHROMA_PX, LUMA_BYTES, LUMA_PX, shrink, thumbnail
from stillmotion.media.scan import Sight
from stillmotion.training.edits import EditConfig, draw_edit, write_edit


def observed(frames: int, **columns: np.ndarray) -> Observed:
    empty: dict[str, np.ndarray] = {f"shots.{name}": np.zeros(frames, np.float32) for name in ("cut", *KINDS)}
    # Every frame of noise of its own: nowhere is the place the same.
    empty["shots.sketch"] = np.random.default_rng(0).integers(0, 256, (frames, 72)).astype(np.uint8)
    no = np.zeros(frames, bool)
    return Observed(np.arange(frames) / 25, no, no, empty | {f"shots.{name}": each for name, each in columns.items()})


def probability(frames: int, first: int, last: int, value: float = 0.9) -> np.ndarray:
    found = np.zeros(frames, np.float32)
    found[first : last + 1] = value
    return found


def test_one_peak_is_one_cut() -> None:
    found = find_transitions(observed(50, cut=probability(50, 20, 21) + np.eye(50, dtype=np.float32)[20] * 0.05))
    assert [(each.kind, each.before, each.after) for each in found] == [("cut", 19, 20)]
    assert found[0].confidence == pytest.approx(0.95)


def test_a_run_is_an_interval_with_its_margin() -> None:
    cfg = ShotConfig(detector=OnePass(margin=1))
    found = find_transitions(observed(60, wipe=probability(60, 20, 30)), cfg)
    assert [(each.kind, each.before, each.after) for each in found] == [("wipe", 18, 32)]


def test_a_slow_rise_moves_the_end_out() -> None:
    rising = probability(60, 20, 30)
    rising[16:20] = 0.2
    found = find_transitions(observed(60, wipe=rising))
    assert [(each.before, each.after) for each in found] == [(15 - 4, 31)]
    assert find_transitions(observed(60, wipe=rising), ShotConfig(detector=OnePass(ramp=0)))[0].before == 15


def test_a_cut_within_a_fade_belongs_to_it() -> None:
    found = find_transitions(observed(60, fade=probability(60, 20, 30, 0.99), cut=probability(60, 32, 32)))
    assert [(each.kind, each.before, each.after) for each in found] == [("fade", 19, 32)]


def test_a_sure_cut_takes_the_place_of_a_doubtful_fade() -> None:
    found = find_transitions(observed(60, fade=probability(60, 20, 30), cut=probability(60, 25, 25)))
    assert [(each.kind, each.before, each.after) for each in found] == [("cut", 24, 25)]
    found = find_transitions(observed(60, fade=probability(60, 20, 30), cut=probability(60, 25, 25, 0.4)))
    assert [each.kind for each in found] == ["fade"]


@pytest.mark.parametrize(("first", "last"), [(0, 10), (49, 59)])
def test_what_has_no_shot_beyond_it_is_no_wipe(first: int, last: int) -> None:
    assert find_transitions(observed(60, wipe=probability(60, first, last, 0.99))) == ()


@pytest.mark.parametrize("kind", ["fade", "dissolve"])
@pytest.mark.parametrize(("first", "last"), [(0, 10), (49, 59)])
def test_a_video_may_begin_or_end_within_a_fade_or_a_dissolve(kind: str, first: int, last: int) -> None:
    (found,) = find_transitions(observed(60, **{kind: probability(60, first, last, 0.99)}))
    assert (found.kind, found.before, found.after) == (kind, max(0, first - 1), min(59, last + 1))


def test_intervals_stay_within_the_video() -> None:
    found = find_transitions(observed(30, fade=np.ones(30, np.float32)))
    assert (found[0].before, found[0].after) == (0, 29)


def test_a_change_of_light_is_no_fade() -> None:
    place = np.random.default_rng(1).integers(50, 150, 72)
    light = np.concatenate([np.zeros(25), np.linspace(0, 60, 10), np.full(25, 60)])
    sketches = np.clip(place + light[:, None], 0, 255).astype(np.uint8)
    given = {"fade": probability(60, 25, 35), "sketch": sketches}
    assert find_transitions(observed(60, **given)) == ()
    # Shots of one place may fade into one another, where there is no doubt that they do.
    assert len(find_transitions(observed(60, **given | {"fade": probability(60, 25, 35, 0.99)}))) == 1
    sketches[36:] = 255 - sketches[36:]
    assert len(find_transitions(observed(60, **given))) == 1


def test_transitions_without_a_shot_between_are_one() -> None:
    found = find_transitions(observed(80, cut=probability(80, 20, 20), fade=probability(80, 25, 40)))
    assert [(each.kind, each.before, each.after) for each in found] == [("fade", 19, 41)]
    cuts = find_transitions(observed(80, cut=probability(80, 20, 20) + probability(80, 23, 23)))
    assert [each.after for each in cuts] == [20, 23]


def test_nothing_is_before_the_first_frame() -> None:
    assert find_transitions(observed(10, cut=probability(10, 0, 0))) == ()


def test_shots_lie_between() -> None:
    cuts = (Transition("cut", 9, 10), Transition("dissolve", 19, 30))
    assert shots_between(cuts, 40) == (Span(0, 9), Span(10, 19), Span(30, 39))
    assert shots_between((), 5) == (Span(0, 4),)
    # A video that opens within a fade.
    assert shots_between((Transition("fade", 0, 5),), 6) == (Span(0, 0), Span(5, 5))


def test_settings_survive_yaml() -> None:
    for cfg in (
        ShotConfig(),
        ShotConfig(detector=Cascade(threshold=11.5)),
        ShotConfig(detector=Cascade(threshold=(27.0, 30.0, 35.0))),
    ):
        assert parse(ShotConfig, to_tree(cfg)) == cfg


def test_shrinking_keeps_the_mean() -> None:
    ramp = np.tile(np.linspace(0, 255, 640).astype(np.uint8), (360, 1))
    small = shrink(ramp, LUMA_PX)
    assert small.shape == (27, 48)
    assert np.abs(small.mean(0) - np.linspace(2.7, 252.3, 48)).max() < 3


@pytest.mark.parametrize("size", [(360, 640), (480, 854), (1080, 1920), (144, 176), (60, 110), (27, 48)])
def test_a_thumbnail_is_its_planes_shrunk(size: tuple[int, int]) -> None:
    rng, half = np.random.default_rng(0), (size[0] // 2, size[1] // 2)
    # Lines of the decoder are longer than the picture, and some formats store blue and red by turns.
    luma = rng.integers(0, 256, (size[0], size[1] + 32), np.uint8)[:, : size[1]]
    pairs = rng.integers(0, 256, (half[0], 2 * half[1]), np.uint8)
    blue, red = pairs[:, 0::2], pairs[:, 1::2]
    for is_full_range, black, white in ((True, 0, 255), (False, 16, 235)):
        row = thumbnail(Sight(0, 0.0, True, False, luma, blue, red, is_full_range, 0))
        levels = (shrink(luma, LUMA_PX).ravel().astype(float) - black) * 255 / (white - black)
        assert np.abs(row[:LUMA_BYTES] - levels.clip(0, 255)).max() <= 0.5
        assert np.array_equal(
            row[LUMA_BYTES:], np.concatenate([shrink(each, CHROMA_PX).ravel() for each in (blue, red)])
        )


@pytest.mark.parametrize("size", [(108, 192), (216, 384)])
def test_shrinking_averages_two_by_two(size: tuple[int, int]) -> None:
    plane = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    # Half of the rows are read; at last two by two remain, which the nearest two pixels each way are.
    mean = plane[::2].astype(float)
    for _ in range(size[1] // LUMA_PX[0] // 4):
        mean = np.floor(mean.reshape(mean.shape[0] // 2, 2, -1, 2).mean((1, 3)) + 0.5)
    assert np.abs(shrink(plane, LUMA_PX) - mean.reshape(27, -1, 48, 2).mean((1, 3))).max() <= 0.5


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (49, 27), (1919, 1081)])
def test_any_size_shrinks(size: tuple[int, int]) -> None:
    flat = np.full((size[1], size[0]), 77, np.uint8)
    assert np.all(shrink(flat, LUMA_PX) == 77)
    by_turns = np.full((size[1], 2 * size[0] + 32), 77, np.uint8)[:, : 2 * size[0]]
    assert np.all(shrink(by_turns[:, ::2], LUMA_PX) == 77)


def test_grey_has_no_colour_and_black_is_black() -> None:
    row = thumbnail(Sight(0, 0.0, True, False, np.full((36, 64), 16, np.uint8), None, None, False, 0))
    assert np.all(row[:LUMA_BYTES] == 0) and np.all(row[LUMA_BYTES:] == 128)


def test_features_do_not_depend_on_the_block() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (200 + 2 * HALO, LUMA_BYTES + 2 * CHROMA_PX[0] * CHROMA_PX[1]))
    rows = rows.astype(np.uint8)
    whole = features(rows)
    parts = [features(rows[start : start + 40 + 2 * HALO]) for start in range(0, 200, 40)]
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-4, atol=1e-4)


def test_a_still_picture_changes_nowhere(tmp_path: Path) -> None:
    edit = draw_edit(EditConfig(width=128, height=72, shots=1, shot_s=(1.0, 1.0), fps=(25.0,), bars=0.0), 3)
    path = tmp_path / "still.mp4"
    write_edit(path, edit)
    assert find_transitions(observe(path, [ShotObserver()])) == ()


def test_every_length_gives_a_number_a_frame(tmp_path: Path) -> None:
    for seconds in (0.4, 8.2):
        cfg = EditConfig(width=64, height=36, shots=1, shot_s=(seconds, seconds), fps=(25.0,))
        edit = draw_edit(cfg, 1)
        path = tmp_path / f"{seconds}.mp4"
        write_edit(path, edit)
        found = observe(path, [ShotObserver()])
        assert {len(column) for column in found.columns.values()} == {found.frames} == {edit.frames}


def test_transitions_of_a_generated_video_are_found(tmp_path: Path) -> None:
    edit = draw_edit(EditConfig(width=160, height=90, shots=8, shot_s=(0.8, 1.4), fps=(25.0,)), 70_001)
    path = tmp_path / "edit.mp4"
    truth = write_edit(path, edit)
    found = find_transitions(observe(path, [ShotObserver()]))
    agreed = agreement(found, truth, edit.frames, edit.flashes)
    assert agreed.recall >= 0.7 and agreed.precision >= 0.7
    assert find_transitions(observe(path, [ShotObserver()])) == found


def test_the_cascade_finds_cuts_at_each_rate(tmp_path: Path) -> None:
    cfg = ShotConfig(detector=Cascade())
    weights = (1.0, 0.0, 0.0, 0.0)
    edit = draw_edit(EditConfig(width=160, height=90, shots=5, shot_s=(0.8, 1.4), weights=weights, fps=(25.0,)), 70_005)
    path = tmp_path / "cuts.mp4"
    truth = write_edit(path, edit)
    found = observe(path, [ShotObserver(cfg)])
    assert set(found.columns) == {"shots.content_1", "shots.content_4", "shots.content_10"}
    assert agreement(find_transitions(found, cfg), truth, edit.frames).recall >= 0.6
    first = ShotConfig(detector=Cascade(threshold=(27.0, 255.0, 255.0)))
    assert {each.kind for each in find_transitions(found, first)} == {"cut"}, "the others' thresholds are never met"
    with pytest.raises(ValueError, match="2 thresholds for 3 strides; expected one each"):
        Cascade(threshold=(1.0, 2.0))


def test_agreement_counts() -> None:
    truth = (Transition("cut", 9, 10), Transition("dissolve", 19, 30), Transition("wipe", 50, 60))
    found = (Transition("cut", 10, 11), Transition("cut", 24, 25), Transition("cut", 40, 41))
    agreed = agreement(found, truth, 70, flashes=[(40, 41)])
    assert (agreed.found, agreed.false, agreed.flash_cuts) == ({"cut": 1, "dissolve": 1, "wipe": 0}, 1, 1)
    assert agreed.f1 == pytest.approx(2 / 3)
    # 0 to 10 holds the cut, 11 to 24 and 25 to 40 parts of the dissolve, 41 to 69 the wipe.
    assert (agreed.clips, agreed.mixed_clips, agreed.lost_frames) == (4, 4, 0)
    assert (agreed + agreed).truth == {"cut": 2, "dissolve": 2, "wipe": 2}


@pytest.mark.slow
def test_figures_of_held_out_videos(tmp_path: Path) -> None:
    """A small version of benchmarks/curation_shots.py: the same seeds, smaller frames and shorter shots."""
    total = None
    for seed in (90_000, 90_001):
        edit = draw_edit(EditConfig(width=320, height=180, shots=16, shot_s=(1.0, 2.0), fps=(25.0,)), seed)
        path = tmp_path / f"{seed}.mp4"
        truth = write_edit(path, edit)
        found = find_transitions(observe(path, [ShotObserver()]))
        each = agreement(found, truth, edit.frames, edit.flashes)
        total = each if total is None else total + each
    assert total is not None
    assert total.f1 >= 0.85
    assert total.flash_cuts <= 0.1 * total.flashes

"""Filters drop exactly what they say."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from stillmotion.curation.thresholds import Rule, ViewConfig, paper_rules, parse_rule, retention, take_view, tier_of
from stillmotion.errors import UsageError


def rows_of(values: list[Any], name: str = "score", heights: list[int] | None = None) -> list[dict[str, Any]]:
    heights = heights or [360] * len(values)
    return [
        {"id": f"{index:04d}", "width": 2 * height, "height": height, name: value}
        for index, (value, height) in enumerate(zip(values, heights, strict=True))
    ]


def view_of(rows: list[dict[str, Any]], *rules: str, axes: tuple[str, ...] = ("score",), **settings: Any):
    return take_view(rows, axes, ViewConfig(rules=tuple(map(parse_rule, rules)), **settings))


@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 99, 100, 1000])
@pytest.mark.parametrize("share", [0.0, 0.125, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["all equal", "three values", "different"])
def test_a_share_is_exact_even_on_ties(total: int, share: float, kind: str) -> None:
    draw = random.Random(total)
    values = [
        {"all equal": 1.0, "three values": draw.randrange(3), "different": draw.random()}[kind] for _ in range(total)
    ]
    view = view_of(rows_of(values), f"score=low:{share}")
    assert len(view.dropped) == math.floor(share * total + 0.5)
    assert abs(len(view.dropped) / total - share) <= 0.5 / total + 1e-12
    kept = [values[int(clip)] for clip in view.kept]
    assert max((values[int(clip)] for clip in view.dropped), default=-1) <= min(kept, default=2)


def test_equal_values_are_told_apart_by_id_whatever_the_order() -> None:
    rows = rows_of([5.0] * 8)
    assert set(view_of(rows, "score=low:0.25").dropped) == {"0000", "0001"}
    assert set(view_of(rows[::-1], "score=low:0.25").dropped) == {"0000", "0001"}


def test_the_high_end_is_dropped_where_it_is_asked_for() -> None:
    view = view_of(rows_of([1.0, 2.0, 3.0, 4.0]), "score=high:0.25")
    assert set(view.dropped) == {"0003"} and view.cuts[0].borders == {0: 3.0}


def test_limits_keep_what_lies_on_them() -> None:
    rows = rows_of([0.06, 0.07, 0.08], "text.area")
    assert set(view_of(rows, "text.area>0.07", axes=("text.area",)).dropped) == {"0002"}
    assert set(view_of(rows, "text.area<0.07", axes=("text.area",)).dropped) == {"0000"}


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, True, "a"])
def test_what_has_no_value_is_counted_and_kept_unless_asked(nothing: Any) -> None:
    rows = rows_of([1.0, nothing, 2.0, 3.0, 4.0])
    view = view_of(rows, "score=low:0.25")
    assert set(view.dropped) == {"0000"} and view.cuts[0].missing == 1 and view.cuts[0].having == 4
    assert set(view_of(rows, "score=low:0.25", missing="drop").dropped) == {"0000", "0001"}


def test_tiers_have_shares_of_their_own() -> None:
    rows = rows_of([1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0], heights=[360] * 4 + [1080] * 4)
    assert set(view_of(rows, "score=low:0.25").dropped) == {"0000", "0001"}
    tiered = view_of(rows, "score=low:0.25", tiers=True)
    assert set(tiered.dropped) == {"0000", "0004"}
    assert tiered.cuts[0].borders == {360: 2.0, 1080: 20.0} and tiered.cuts[0].told() == "2 at 360p, 20 at 1080p"


def test_shorter_sides_fall_into_tiers() -> None:
    sides = (100, 256, 359, 360, 719, 720, 1080, 5000)
    for turned in (("width", "height"), ("height", "width")):
        assert [tier_of({turned[0]: side, turned[1]: 2 * side}) for side in sides] == [
            0, 256, 256, 360, 480, 720, 1080, 2160,
        ]  # fmt: skip


def test_rules_are_independent_and_all_reasons_are_kept() -> None:
    rows = [row | {"other": -row["score"]} for row in rows_of([1.0, 2.0, 3.0, 4.0])]
    view = view_of(rows, "score=low:0.5", "other=high:0.25", axes=("score", "other"))
    assert view.dropped == {"0000": ("score=low:0.5", "other=high:0.25"), "0001": ("score=low:0.5",)}
    assert retention(view, 4) == {"rules": {"score=low:0.5": 0.5, "other=high:0.25": 0.75}, "together": 0.5}


def test_near_duplicates_go_unless_they_are_asked_for() -> None:
    rows = rows_of([1.0, 2.0])
    rows[1]["duplicate.of"] = "0000"
    assert view_of(rows).kept == ("0000",)
    assert view_of(rows, duplicates=True).kept == ("0000", "0001")


def test_the_best_copy_that_no_rule_drops_stays() -> None:
    rows = rows_of([9.0, 1.0, 2.0], heights=[720, 360, 480])
    rows[1]["duplicate.of"] = rows[2]["duplicate.of"] = "0000"
    assert view_of(rows).kept == ("0000",)
    found = view_of(rows, "score>8")
    assert found.kept == ("0002",) and found.dropped == {"0000": ("score>8",), "0001": ("duplicate",)}
    assert view_of(rows, "score>0").kept == ()


def test_a_rule_drops_the_worse_end_of_an_axis_and_of_others_the_one_it_says() -> None:
    assert Rule(column="text", share=0.4).drops == "high" and Rule(column="motion", share=0.4).drops == "low"
    assert Rule(column="text", drops="low", share=0.4).drops == "low"
    with pytest.raises(ValueError, match="expected low or high"):
        Rule(column="bytes", share=0.4)


def test_retention_counts_what_a_rule_drops_for_want_of_a_value() -> None:
    view = view_of(rows_of([1.0, 2.0, 3.0, 4.0, None]), "score=low:0.25", missing="drop")
    assert retention(view, 5)["rules"] == {"score=low:0.25": pytest.approx(0.6)}


def test_the_paper_s_shares_are_taken_where_the_axis_is_there() -> None:
    assert paper_rules(["something"]) == ()
    rules = paper_rules(["aesthetic.score", "clip.similarity", "text.area"])
    assert {rule.name for rule in rules} == {"aesthetic=low:0.25", "text=high:0.25", "similarity=low:0.5"}


def test_planted_clips_are_in_the_dropped_tail() -> None:
    draw = random.Random(1)
    rows = rows_of([draw.uniform(0.3, 1) for _ in range(80)] + [draw.uniform(0, 0.1) for _ in range(20)])
    assert set(view_of(rows, "score=low:0.2").dropped) == {f"{index:04d}" for index in range(80, 100)}


@pytest.mark.parametrize(
    "text", ["", "score", "=0.1", "score=", "score=2", "score=-0.1", "score=middle:0.1", "score>a", "score=nan"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_rule(text)


def test_an_unknown_column_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="expected one of score"):
        view_of(rows_of([1.0]), "scorn=low:0.1")


def test_a_rule_has_one_threshold() -> None:
    with pytest.raises(ValueError, match="expected one"):
        Rule(column="a", drops="low", share=0.1, limit=0.1)


def test_no_clips_are_a_view_too() -> None:
    view = view_of([], "score=low:0.25")
    assert view.kept == () and retention(view, 0)["together"] == 0.0


def test_a_share_without_an_end_is_of_an_axis_that_says_which_is_worse() -> None:
    assert parse_rule("text=0.2").drops == parse_rule("text.area=0.2").drops == "high"
    assert parse_rule("motion.speed=0.2").drops == "low"
    with pytest.raises(UsageError, match=r"flicker=low:0\.2 or flicker=high:0\.2"):
        parse_rule("flicker=0.2")

"""Bounds, verdicts, and which experiments a list of names selects."""

from __future__ import annotations

import math

import pytest
from suite.figures import Bound, Experiment, Figure, at_least, at_most, select, share_of_peer, times_faster, verdict


def figure(must: Bound | None, aim: Bound | None) -> Figure:
    return Figure("speed", "how fast", "s", "ratio", must, aim)


@pytest.mark.parametrize(
    "value, expected",
    [(1.5, "missed"), (1.6, "must met"), (2.1999, "must met"), (2.2, "aim met"), (math.nan, "missed")],
)
def test_a_bound_from_below(value: float, expected: str) -> None:
    assert verdict(figure(at_least(1.6), at_least(2.2)), value) == expected


@pytest.mark.parametrize("value, expected", [(0.36, "missed"), (0.35, "must met"), (0.2, "aim met"), (0.0, "aim met")])
def test_a_bound_from_above(value: float, expected: str) -> None:
    assert verdict(figure(at_most(0.35), at_most(0.2)), value) == expected


@pytest.mark.parametrize(
    "value, expected", [(0.89, "missed"), (0.9, "must met"), (1.15, "must met"), (1.16, "missed"), (math.inf, "missed")]
)
def test_a_bound_from_both_sides(value: float, expected: str) -> None:
    assert verdict(figure(Bound(0.9, 1.15), None), value) == expected


def test_without_a_must_nothing_is_missed() -> None:
    assert verdict(figure(None, None), math.nan) == "no bound"


def test_bounds_read_as_a_person_writes_them() -> None:
    assert [str(each) for each in (at_least(1.6), at_most(2e-5), Bound(0.9, 1.15))] == [
        ">= 1.6",
        "<= 2e-05",
        "0.9 to 1.15",
    ]


def test_a_ratio_of_times_is_the_peers_over_ours_and_one_of_memory_the_other_way() -> None:
    assert times_faster(2.0, 5.0).value == 2.5
    assert share_of_peer(2.0, 5.0).value == 0.4


def experiment(name: str, *figures: str) -> Experiment:
    return Experiment(name, tuple(Figure(each, each, "", "") for each in figures), dict)


EVERY = [experiment("unet", "step", "share"), experiment("memory", "peak"), experiment("import", "bare")]


@pytest.mark.parametrize(
    "names, expected",
    [
        ([], ["unet", "memory", "import"]),
        (["share"], ["unet"]),
        (["import", "unet"], ["unet", "import"]),
        (["step", "share", "unet"], ["unet"]),
    ],
)
def test_rows_are_selected_by_experiment_or_figure_in_the_suites_order(names: list[str], expected: list[str]) -> None:
    assert [each.name for each in select(EVERY, names)] == expected


@pytest.mark.parametrize("names", [["nothing"], ["unet", "nothing"], [""]])
def test_a_name_that_is_none_is_refused(names: list[str]) -> None:
    with pytest.raises(KeyError):
        select(EVERY, names)

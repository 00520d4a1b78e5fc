"""Resuming, failing and judging, with experiments that only return numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from suite import machine, program
from suite.figures import Experiment, Figure, Measured, at_least, times_faster
from suite.results import Results, Stamp

from stillmotion.errors import StillmotionError, UsageError

STAMP = Stamp("source-1", "abc")
Runs = list[str]


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "others_now", lambda: 0.0)


def experiment(name: str, runs: Runs, value: float = 2.0, error: Exception | None = None) -> Experiment:
    """One whose figure must be at least 1.5."""

    def run() -> dict[str, Measured]:
        runs.append(name)
        if error is not None:
            raise error
        return {name: times_faster(1.0, value, "a note", points=[1, 2])}

    return Experiment(f"{name}-experiment", (Figure(name, f"how {name}", "s", "ratio", at_least(1.5)),), run)


def go(
    experiments: list[Experiment], folder: Path, stamp: Stamp = STAMP, fresh: bool = False, judged: bool = True
) -> int:
    return program.run(experiments, Results(folder), stamp, "cpu", fresh, judged)


def test_a_finished_row_is_not_measured_again(tmp_path: Path) -> None:
    runs: Runs = []
    rows = [experiment("first", runs), experiment("second", runs)]
    assert go(rows[:1], tmp_path) == 0
    assert go(rows, tmp_path) == 0
    assert runs == ["first", "second"]


@pytest.mark.parametrize("again", [{"fresh": True}, {"stamp": Stamp("source-2", "abc")}])
def test_another_source_or_fresh_measures_anew(tmp_path: Path, again: dict) -> None:
    runs: Runs = []
    go([experiment("first", runs)], tmp_path)
    go([experiment("first", runs, value=3.0)], tmp_path, **again)
    assert runs == ["first", "first"]
    assert Results(tmp_path).rows["first"]["value"] == 3.0


def test_a_new_commit_of_the_same_source_keeps_its_rows(tmp_path: Path) -> None:
    runs: Runs = []
    go([experiment("first", runs)], tmp_path)
    go([experiment("first", runs)], tmp_path, stamp=Stamp("source-1", "def"))
    assert runs == ["first"]


def test_an_interrupted_run_keeps_what_is_finished(tmp_path: Path) -> None:
    runs: Runs = []
    with pytest.raises(KeyboardInterrupt):
        go([experiment("first", runs), experiment("second", runs, error=KeyboardInterrupt())], tmp_path)  # type: ignore
    assert list(Results(tmp_path).rows) == ["first"]


@pytest.mark.parametrize("value, status", [(1.4, 1), (1.5, 0), (float("nan"), 1)])
def test_the_status_says_whether_a_must_is_missed(tmp_path: Path, value: float, status: int) -> None:
    assert go([experiment("first", [], value)], tmp_path) == status
    assert go([experiment("first", [], value)], tmp_path) == status, "also where the row was stored"


def test_a_stored_row_is_judged_by_the_bounds_of_today(tmp_path: Path) -> None:
    go([experiment("first", [], 2.0)], tmp_path)
    harder = Experiment("first-experiment", (Figure("first", "", "s", "", at_least(2.5)),), dict)
    assert go([harder], tmp_path) == 1


def test_tiny_shapes_are_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go([experiment("first", [], 0.1)], tmp_path, judged=False) == 0
    assert "none is judged" in capsys.readouterr().out


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError(), StillmotionError("no disk.")])
def test_a_failure_is_said_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    runs: Runs = []
    rows = [experiment("first", runs, error=error), experiment("second", runs)]
    assert go(rows, tmp_path) == 1
    assert runs == ["first", "second"] and list(Results(tmp_path).rows) == ["second"]
    assert f"failed: first-experiment: {error}" in capsys.readouterr().out


def test_a_line_says_name_sides_ratio_bounds_and_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go([experiment("first", [], 1.25)], tmp_path)
    said = capsys.readouterr().out
    assert "first: ours 1 s, diffusers 1.25 s, ratio 1.25; must >= 1.5, aim -: missed; a note" in said
    assert "1 figures, 1 below their must: first" in said


@pytest.mark.parametrize("others, warned", [(0.05, False), (0.7, True), (None, False)])
def test_a_busy_machine_is_warned_of_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, others: float, warned: bool
) -> None:
    monkeypatch.setattr(machine, "others_now", lambda: others)
    go([experiment("first", [])], tmp_path)
    assert ("warning: other processes keep 0.7 cores busy" in capsys.readouterr().out) == warned


def test_what_no_json_holds_is_stored_as_nothing(tmp_path: Path) -> None:
    run = {"first": Measured(float("inf"), None, float("nan"), details={"psnr_db": float("inf"), "by": [float("nan")]})}
    Results(tmp_path).keep(experiment("first", []), run, STAMP, {})
    row = json.loads((tmp_path / "bench.json").read_text())["rows"]["first"]
    assert row["ours"] is row["value"] is row["details"]["psnr_db"] is row["details"]["by"][0] is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rows": 3}', '{"rows": {"first"', "\0"])
def test_a_file_that_holds_no_figures_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / "bench.json").write_text(content)
    with pytest.raises(UsageError, match="expected a file of results, or none"):
        Results(tmp_path)
    assert (tmp_path / "bench.json").read_text() == content


def test_results_that_cannot_be_written_fail_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results(tmp_path / "machine")
    (tmp_path / "machine").write_text("in the way")
    assert program.run([experiment("first", [])], results, STAMP, "cpu", fresh=False, judged=True) == 1
    assert "failed: first-experiment: " in capsys.readouterr().out


def test_the_source_digest_follows_size_threads_and_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.source_digest(True) == machine.source_digest(True) != machine.source_digest(False)
    before = machine.source_digest(True)
    with monkeypatch.context() as other:
        other.setattr(machine.library, "name", lambda: "other code")
        assert machine.source_digest(True) != before
        assert machine.describe("cpu")["kernels"] == "other code"


def test_work_of_another_process_is_seen() -> None:
    """Our own work does not count as others'."""
    with machine.watching_others() as load:
        sum(range(3_000_000))
    assert load.others is None or 0 <= load.others <= machine.cores() + 0.5


@pytest.mark.parametrize(
    "name, device, expected",
    [
        ("AMD EPYC", "cpu", "amd-epyc-{}-cores"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "cpu", "intel-xeon-{}-cores"),
        ("NVIDIA H200", "cuda", "h200"),
        ("NVIDIA GeForce RTX 4090", "cuda:0", "geforce-rtx-4090"),
        ("", "cpu", "machine-{}-cores"),
    ],
)
def test_the_machines_folder(name: str, device: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "device_name", lambda device: name)
    assert machine.slug(device) == expected.format(machine.cores())

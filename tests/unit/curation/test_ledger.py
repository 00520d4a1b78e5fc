"""A result is whole or absent, and a folder has one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stillmotion.curation.ledger import Ledger, first_refusal, holder, locked, read_json, write_json
from stillmotion.curation.records import Failure
from stillmotion.curation.stage import Needs, Stage, families, keys_of, legs_of, needs_of
from stillmotion.errors import StillmotionError, UsageError

KEY = "ab" + "0" * 62


def stage(name: str, version: str = "1", after: tuple[str, ...] = (), gpus: float = 0.0, family: str = "") -> Stage:
    return Stage(name, version, {"a": 1}, after, lambda unit, folders: None, Needs(gpus=gpus), family)


def test_a_result_appears_when_its_block_ends(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.committing({"scan": KEY}) as folders:
        write_json(folders["scan"] / "a.json", {"b": 1})
        assert not ledger.has("scan", KEY)
    assert ledger.has("scan", KEY) and read_json(ledger.folder("scan", KEY) / "a.json") == {"b": 1}


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(ZeroDivisionError), ledger.committing({"scan": KEY, "shots": KEY}) as folders:
        (folders["scan"] / "a").write_text("half")
        raise ZeroDivisionError
    assert not ledger.has("scan", KEY) and not ledger.has("shots", KEY)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_refusal_is_remembered_without_its_source(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.refuse("scan", KEY, Failure("somewhere.mp4", "scan", "corrupt", "The video is damaged."))
    assert ledger.refusal("scan", KEY) == Failure("", "scan", "corrupt", "The video is damaged.")
    assert first_refusal(ledger, ["shots", "scan"], {"shots": KEY, "scan": KEY}) is not None
    assert ledger.refusal("shots", KEY) is None


def test_sweeping_removes_halves_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.committing({"scan": KEY}):
        pass
    half = ledger.folder("scan", KEY).with_name(".1234.part")
    half.mkdir()
    (half / "clip.mp4").write_bytes(b"x")
    (tmp_path / "fetched").mkdir()
    (tmp_path / "fetched" / ".56.part.mp4").write_bytes(b"x")
    ledger.sweep()
    assert ledger.has("scan", KEY) and not half.exists() and not list((tmp_path / "fetched").iterdir())


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"half')
    with pytest.raises(StillmotionError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")


def test_a_second_run_is_refused_in_one_sentence(tmp_path: Path) -> None:
    assert holder(tmp_path / "work") is None
    with locked(tmp_path / "work"):
        assert holder(tmp_path / "work") == str(os.getpid())
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), locked(tmp_path / "work"):
            pass
    with locked(tmp_path / "work"):
        pass
    assert holder(tmp_path / "work") is None


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from stillmotion.curation.ledger import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    with other, other.stdout:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=f"process {other.pid}"), locked(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
    with locked(tmp_path):
        pass


def test_a_key_changes_with_all_that_it_depends_on() -> None:
    def keys(first: str = "1", second: str = "1", sha256: str = "f" * 64) -> dict[str, str]:
        chain = (stage("a", first), stage("b", second, ("a",)), stage("c", "1", ("a",)), stage("d", "1", ("b",)))
        return keys_of(chain, sha256)

    usual = keys()
    assert len(set(usual.values())) == 4
    changed = {name for name, key in keys(second="2").items() if key != usual[name]}
    assert changed == {"b", "d"}
    assert not set(keys(first="2").values()) & set(usual.values())
    assert not set(keys(sha256="e" * 64).values()) & set(usual.values())


def test_legs_part_where_a_card_is_needed() -> None:
    chain = (stage("a"), stage("b"), stage("c", gpus=1), stage("d", gpus=0.5), stage("e"))
    legs = legs_of(chain)
    assert [[each.name for each in leg] for leg in legs] == [["a", "b"], ["c", "d"], ["e"]]
    assert needs_of(legs[1]).gpus == 1 and needs_of(legs[0]).gpus == 0


def test_neighbours_of_a_family_go_together() -> None:
    chain = (stage("a"), stage("b", family="x"), stage("c", family="x"), stage("d"), stage("e"))
    assert [[each.name for each in family] for family in families(chain)] == [["a"], ["b", "c"], ["d"], ["e"]]

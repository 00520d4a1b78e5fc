"""Captions and similarity within a run: what their keys depend on, and what needs their weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stillmotion.cli import main
from stillmotion.curation.manifest import read_manifest
from stillmotion.errors import CheckpointError, ConfigError, UsageError
from stillmotion.tasks import curated
from stillmotion.tasks.curate import CurationSummary

from ..curation.tiny_networks import save_blip2, save_clip
from .test_curate import curate, film


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film, a captioner, a CLIP and a head for it."""
    place = tmp_path_factory.mktemp("networks")
    film(place / "films" / "a.mp4", 1)
    save_blip2(place / "blip2")
    save_clip(place / "clip")
    save_file({"weight": torch.ones(1, 8)}, place / "head.safetensors")
    return place


def asked(place: Path, device: str = "cpu", head: str = "head.safetensors") -> tuple[str, ...]:
    return (
        f"curation.captions=[{{kind: image, network: {{model: {place}/blip2}}, max_tokens: 3}}]",
        f"curation.similarity={{clip: {{model: {place}/clip, device: {device}}}, aesthetic: {place}/{head}}}",
    )


@pytest.fixture(scope="module")
def scored(place: Path) -> tuple[Path, CurationSummary]:
    return place / "set", curate(place / "films", place / "set", *asked(place))


@pytest.fixture
def copied(place: Path, scored: tuple[Path, CurationSummary], tmp_path: Path) -> Path:
    """All of it somewhere else."""
    return Path(shutil.copytree(place, tmp_path / "moved"))


def test_every_clip_is_described_and_scored(scored: tuple[Path, CurationSummary]) -> None:
    (row,) = read_manifest(scored[0] / "manifest.parquet").rows
    assert isinstance(row["caption.image"], str) and len(row["clip.embedding"]) == 8
    assert -1 <= row["clip.similarity"] <= 1 and row["aesthetic.score"] is not None


def test_weights_that_lie_elsewhere_change_nothing(copied: Path, scored: tuple[Path, CurationSummary]) -> None:
    # The film's own time stands in the key of its identity, not in those of the stages.
    again = curate(copied / "films", copied / "set", *asked(copied))
    assert again.hash == scored[1].hash and again.computed == 0


def test_another_head_at_the_same_place_is_asked_again(copied: Path) -> None:
    save_file({"weight": torch.full((1, 8), 2.0)}, copied / "head.safetensors")
    before = read_manifest(copied / "set" / "manifest.parquet").rows[0]
    assert curate(copied / "films", copied / "set", *asked(copied)).computed == 1
    after = read_manifest(copied / "set" / "manifest.parquet").rows[0]
    assert after["aesthetic.score"] == pytest.approx(2 * before["aesthetic.score"], rel=1e-5)
    assert after["caption.image"] == before["caption.image"]


def test_without_the_weights_a_folder_can_still_be_asked(copied: Path) -> None:
    curate(copied / "films", copied / "set", *asked(copied))
    for name in ("blip2", "clip"):
        shutil.rmtree(copied / name)
    found = curated.standing(curated.StatusSettings(output=copied / "set"))
    assert (found.done, found.clips, found.failures) == (1, 1, {})
    assert "data:image/jpeg" in curated.report_again(curated.ReportSettings(output=copied / "set")).read_text()
    assert (
        len(curated.filter_clips(curated.FilterSettings(output=copied / "set", drop=("bytes<1",), shards=True)).shards)
        == 1
    )


def test_what_cannot_work_is_refused_before_any_work(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"weight": torch.ones(1, 9)}, copied / "wide.safetensors")
    out = copied / "out"
    with pytest.raises(CheckpointError, match="takes embeddings of 9 numbers; expected 8"):
        curate(copied / "films", out, *asked(copied, head="wide.safetensors"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        curate(copied / "films", out, *asked(copied, head="nothing.safetensors"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="clip is to run on a GPU, and this machine has none"):
        curate(copied / "films", out, *asked(copied, device="cuda"))
    with pytest.raises(ConfigError, match="2 captioners of the kind image"):
        curate(copied / "films", out, "curation.captions=[{kind: image}, {kind: image, prompt: b}]")
    assert not out.exists()


def test_a_network_that_fails_later_is_a_row_and_an_exit_code(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "clip" / "model.safetensors").write_bytes(b"no tensors at all")
    settings = [
        part for each in ("curation.clips.min_s=1", "view.rules=[]", *asked(copied)) for part in ("--set", each)
    ]
    run = ["curate", "run", str(copied / "films"), str(copied / "set"), "--workers", "0", *settings]
    assert main(run) == 1
    assert "1 videos met a network that cannot be used" in capsys.readouterr().err
    found = curated.standing(curated.StatusSettings(output=copied / "set"))
    assert found.failures == {"no_scorer": 1}, "it is tried again by the next run"

"""Pages of a mapped file are given back and come back; what is no page of a file is left alone."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from stillmotion.checkpoints.store import TensorFile, write
from stillmotion.errors import UsageError
from stillmotion.models import mapped, parked
from stillmotion.models.mapped import file_pages, give_back, settle, sparing

pytestmark = pytest.mark.skipif(not mapped.CAN_GIVE_BACK, reason="only Linux says which pages are a file's")
ROWS = 4096


def linear(folder: Path) -> nn.Linear:
    """4 MB of weights in a file."""
    weights = torch.randn(ROWS, 256, generator=torch.Generator().manual_seed(3))
    write(folder / "a.safetensors", {"weight": [weights]})
    layer = nn.Linear(256, ROWS, bias=False)
    layer.weight = nn.Parameter(TensorFile(folder / "a.safetensors").tensor("weight"), requires_grad=False)
    return layer


def resident_bytes(pages: list[range]) -> int:
    """What of these pages is in memory, as the system says."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            start, stop = (int(each, 16) for each in first.split("-"))
            inside = any(start <= each.start < stop for each in pages)
        elif inside and first == "Rss:":
            total += int(line.split()[1]) * 1024
    return total


def test_pages_that_were_given_back_are_read_again(tmp_path: Path) -> None:
    layer = linear(tmp_path)
    expected = layer.weight.clone()
    pages = file_pages([layer.weight])
    assert sum(map(len, pages)) >= layer.weight.nbytes and resident_bytes(pages) >= layer.weight.nbytes
    give_back(pages)
    assert resident_bytes(pages) < layer.weight.nbytes // 8
    assert torch.equal(layer.weight, expected)


def test_a_weight_that_was_written_to_is_nobodys_page_but_ours(tmp_path: Path) -> None:
    layer = linear(tmp_path)
    layer.weight[ROWS // 2] = 7.0
    changed = layer.weight.clone()
    assert file_pages([layer.weight]) == []
    with sparing(layer):
        time.sleep(3 * mapped.SWEEP_S)
    assert torch.equal(layer.weight, changed)


def test_inside_the_block_weights_go_by_themselves_and_results_stay(tmp_path: Path) -> None:
    layer, x = linear(tmp_path), torch.ones(1, 256)
    pages, expected = file_pages([layer.weight]), layer(x)
    with sparing(layer):
        assert torch.equal(layer(x), expected)
        deadline = time.monotonic() + 10
        while resident_bytes(pages) > layer.weight.nbytes // 8 and time.monotonic() < deadline:
            time.sleep(mapped.SWEEP_S)
        assert resident_bytes(pages) <= layer.weight.nbytes // 8
        assert torch.equal(layer(x), expected)
    with pytest.raises(ZeroDivisionError), sparing(layer):
        raise ZeroDivisionError
    assert torch.equal(layer(x), expected)


def test_weights_of_the_heap_are_nobodys_pages() -> None:
    layer = nn.Linear(256, ROWS)
    assert file_pages([layer.weight, torch.empty(0), torch.empty(2, device="meta")]) == []
    expected = layer.weight.clone()
    with sparing(layer):
        time.sleep(2 * mapped.SWEEP_S)
    assert torch.equal(layer.weight, expected)


def test_a_changed_precision_waits_in_a_file(tmp_path: Path) -> None:
    layer = linear(tmp_path)
    expected = layer.weight.to(torch.bfloat16)
    settle(layer, torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16 and not layer.weight.requires_grad
    pages = file_pages([layer.weight])
    give_back(pages)
    assert sum(map(len, pages)) >= layer.weight.nbytes and torch.equal(layer.weight, expected)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parked, "_fill", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    layer = linear(tmp_path)
    with pytest.raises(UsageError, match="No space left"):
        settle(layer, torch.bfloat16)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]

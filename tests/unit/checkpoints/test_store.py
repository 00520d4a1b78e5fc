"""safetensors files: same bytes, checked sizes, refused pickles, nothing half-written."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stillmotion.checkpoints.store import DTYPES, TensorFile, TensorSet, write
from stillmotion.errors import CheckpointError, StillmotionError

TENSORS = {
    "b.weight": torch.arange(6.0).reshape(2, 3),
    "a.half": torch.arange(3).half(),
    "c.scalar": torch.tensor(2.5),
    "d.empty": torch.zeros(0, 4),
    "e.index": torch.tensor([1, 2]),
    "ä": torch.tensor([True]),
}


def file_of(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_the_bytes_are_those_of_the_formats_own_writer(tmp_path: Path) -> None:
    write(tmp_path / "ours.safetensors", {name: (value,) for name, value in TENSORS.items()})
    save_file(TENSORS, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_tensors_are_read_back_as_they_were(tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors", {name: (value,) for name, value in TENSORS.items()})
    file = TensorFile(tmp_path / "x.safetensors")
    assert set(file.entries) == set(TENSORS)
    for name, value in TENSORS.items():
        assert torch.equal(file.tensor(name), value)
        assert file.tensor(name).dtype == value.dtype


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_type_of_the_table_round_trips(tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.tensor([0, 1, 1, 0]).to(dtype)
    write(tmp_path / "x.safetensors", {"x": (value,)})
    assert torch.equal(TensorFile(tmp_path / "x.safetensors").tensor("x").float(), value.float())
    assert load_file(tmp_path / "x.safetensors")["x"].dtype == dtype


def test_parts_are_joined_and_floats_alone_are_converted(tmp_path: Path) -> None:
    parts = (torch.ones(2, 3), torch.zeros(1, 3))
    write(tmp_path / "x.safetensors", {"x": parts, "i": (torch.tensor([7]),)}, torch.bfloat16)
    found = load_file(tmp_path / "x.safetensors")
    assert torch.equal(found["x"], torch.cat(parts).bfloat16())
    assert found["i"].dtype == torch.int64


def test_a_change_to_a_read_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(path, {"x": (torch.ones(4),)})
    before = path.read_bytes()
    TensorFile(path).tensor("x").zero_()
    assert path.read_bytes() == before


def test_released_pages_are_read_anew(tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors", {"x": (torch.arange(5000.0),)})
    file = TensorFile(tmp_path / "x.safetensors")
    view = file.tensor("x")
    file.release("x")
    assert torch.equal(view, torch.arange(5000.0))


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        ({"x": ENTRY}, b"\0" * 3, "cut short"),
        ({"x": ENTRY}, b"\0" * 5, "behind its last"),
        ({"x": ENTRY | {"shape": [2]}}, b"\0" * 4, "expected 8"),
        ({"x": ENTRY | {"shape": [-1]}}, b"\0" * 4, "describes x"),
        ({"x": ENTRY | {"shape": [True]}}, b"\0" * 4, "describes x"),
        ({"x": ENTRY | {"dtype": "F31"}}, b"\0" * 4, "describes x"),
        ({"x": [1]}, b"\0" * 4, "describes x"),
        ({"x": ENTRY, "y": ENTRY}, b"\0" * 4, "overlap"),
        ({"x": ENTRY | {"data_offsets": [4, 8]}}, b"\0" * 8, "overlap or leave gaps"),
        (b'{"x": 1, "x": 2}', b"", "not JSON"),
        (b'{"x": ' + b"[" * 100_000, b"", "not JSON"),
        (b'{"x": ' + b'"data_offsets"' * 100_001, b"", "more than 100000 tensors"),
    ],
)
def test_a_lying_header_is_one_sentence(tmp_path: Path, header: Any, data: bytes, said: str) -> None:
    path = file_of(tmp_path / "x.safetensors", header, data)
    with pytest.raises(CheckpointError, match=re.escape(said)) as caught:
        TensorFile(path)
    assert "\n" not in str(caught.value)


def test_a_header_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{")
    with pytest.raises(CheckpointError, match="header of 1099511627776 bytes"):
        TensorFile(path)
    path.write_bytes((1000).to_bytes(8, "little") + b"{")
    with pytest.raises(CheckpointError, match="cut short"):
        TensorFile(path)


@pytest.mark.parametrize("keep", [0, 4, 8, 9, 50, 1000])
def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    write(path, {"x": (torch.ones(1000),)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError):
        TensorFile(path)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_with_a_command_that_converts_it(tmp_path: Path, name: str, zipped: bool) -> None:
    path = tmp_path / name
    torch.save({"state_dict": {"x": torch.ones(2)}}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"a pickle.*expected a \.safetensors file") as caught:
        TensorFile(path)
    command = shlex.split(str(caught.value).split("`")[1])
    if zipped and name.endswith("ckpt"):
        subprocess.run([sys.executable, *command[1:]], check=True)
        assert torch.equal(TensorFile(Path(f"{path}.safetensors")).tensor("x"), torch.ones(2))


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        TensorFile(tmp_path / "none.safetensors")


def test_two_shards_may_not_hold_the_same_tensor(tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors", {"x": (torch.ones(4),)})
    with pytest.raises(CheckpointError, match="x in two of its files"):
        TensorSet([TensorFile(tmp_path / "x.safetensors")] * 2, "shards")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(path, {"x": (torch.ones(4),)})
    before = path.read_bytes()
    code = (
        "import resource, sys, torch\n"
        "from stillmotion.checkpoints.store import write\n"
        "from stillmotion.errors import StillmotionError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    write(sys.argv[1], {'x': (torch.ones(10_000),)})\n"
        "except StillmotionError as error:\n"
        "    sys.stdout.write(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "disk is full or a size limit" in done.stdout
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_type_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="complex64"):
        write(tmp_path / "x.safetensors", {"x": (torch.ones(2, dtype=torch.complex64),)})
    assert list(tmp_path.iterdir()) == []
    assert issubclass(CheckpointError, StillmotionError)

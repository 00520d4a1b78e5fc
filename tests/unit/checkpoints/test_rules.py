"""Key rules: longest path, both directions, parts, and nothing that falls through."""

from __future__ import annotations

import pytest
import torch

from stillmotion.checkpoints.rules import Ignored, Rule, Rules, listed, rule, their_shape, to_ours, to_theirs
from stillmotion.errors import CheckpointError

TABLE = Rules(
    [
        rule("up.1", "block.1"),
        rule("up.10", "block.7"),
        rule("conv", "out"),
        rule("time", "out.time"),
        rule("proj.weight", "proj", "transposed"),
        rule("to_q.weight", "q.weight", "pointwise"),
        Rule(("q.bias", "k.bias", "v.bias"), "qkv_bias"),
    ],
    [Ignored("text", "not used")],
)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("up.1.weight", "block.1.weight"),
        ("up.10.weight", "block.7.weight"),
        ("conv.bias", "out.bias"),
        ("time.bias", "out.time.bias"),
        ("proj.weight", "proj"),
    ],
)
def test_the_longest_whole_path_wins(ours: str, theirs: str) -> None:
    assert TABLE.place(ours).theirs == theirs


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"up\.100\.weight"):
        TABLE.place("up.100.weight")


def test_an_ignored_name_has_its_reason() -> None:
    assert TABLE.reason("text.token.weight") == "not used"
    assert TABLE.reason("texture.weight") == ""


def test_stacked_parts_keep_their_order_and_none_may_be_missing() -> None:
    parts = {f"{name}.bias": torch.full((2,), float(i)) for i, name in enumerate("qkv")}
    shuffled = {name: parts[name] for name in ("v.bias", "q.bias", "k.bias")}
    assert torch.cat(TABLE.export(shuffled)["qkv_bias"]).tolist() == [0, 0, 1, 1, 2, 2]
    assert their_shape((2,), TABLE.place("k.bias")) == (6,)
    del shuffled["k.bias"]
    with pytest.raises(CheckpointError, match="qkv_bias"):
        TABLE.export(shuffled)


@pytest.mark.parametrize("form", ["same", "transposed", "pointwise"])
def test_forms_undo_each_other(form: str) -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(to_ours(to_theirs(tensor, form), form), tensor)
    assert to_theirs(tensor, form).data_ptr() == tensor.data_ptr()


def test_the_empty_path_covers_everything() -> None:
    identity = Rules([rule("", "")])
    assert identity.place("a.b.weight").theirs == "a.b.weight"


def test_listed_names_a_few_and_counts_the_rest() -> None:
    assert listed("abcde") == "a, b, c and 2 more"
    assert listed("ab") == "a, b"

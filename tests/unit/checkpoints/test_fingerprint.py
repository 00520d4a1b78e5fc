"""The hash of weights: one value whatever the layout, another for any other bit."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stillmotion.checkpoints.fingerprint import components_sha256, named_tensors, tensors_sha256
from stillmotion.checkpoints.load import Loaded, load, save
from stillmotion.errors import CheckpointError
from stillmotion.models.components import Components
from stillmotion.presets import Preset


def test_the_definition_by_hand() -> None:
    half = b'["a","F16",[2]]\n' + struct.pack("<2e", 1.5, -2.0)
    whole = b'["b.weight","F32",[1,2]]\n' + struct.pack("<2f", 0.1, 3.0)
    brain = b'["c","BF16",[]]\n' + struct.pack("<f", 1.5)[2:]
    digests = [hashlib.sha256(part).digest() for part in (half, whole, brain)]
    tensors = {
        "c": torch.tensor(1.5, dtype=torch.bfloat16),
        "a": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "b.weight": torch.tensor([[0.1, 3.0]]),
    }
    assert tensors_sha256(tensors.items()) == hashlib.sha256(b"".join(digests)).hexdigest()
    assert tensors_sha256([]) == hashlib.sha256(b"").hexdigest()


def test_neither_order_nor_strides_nor_gradients_count() -> None:
    value = torch.arange(12.0).reshape(3, 4)
    wanted = tensors_sha256([("x", value), ("y", torch.ones(2))])
    assert tensors_sha256([("y", torch.ones(2)), ("x", value.T.contiguous().T)]) == wanted
    assert tensors_sha256([("y", torch.ones(4)[::2]), ("x", value.clone().requires_grad_())]) == wanted


@pytest.mark.parametrize(
    "other",
    [
        {"y": torch.zeros(4)},
        {"x": torch.zeros(2, 2)},
        {"x": torch.zeros(4, dtype=torch.int32)},
        {"x": torch.tensor([0.0, 0.0, 0.0, -0.0])},
        {"x": torch.zeros(4), "y": torch.zeros(0)},
        {},
    ],
)
def test_names_shapes_types_bits_and_empty_tensors_count(other: dict[str, Tensor]) -> None:
    assert tensors_sha256(other.items()) != tensors_sha256([("x", torch.zeros(4))])


def test_bytes_do_not_move_from_one_tensor_to_the_next() -> None:
    one = tensors_sha256([("x", torch.tensor([1.0])), ("y", torch.tensor([2.0, 3.0]))])
    assert one != tensors_sha256([("x", torch.tensor([1.0, 2.0])), ("y", torch.tensor([3.0]))])


def test_what_cannot_be_hashed_is_one_sentence() -> None:
    x = torch.zeros(2)
    for named, said in (
        ([("x", x), ("x", x)], "x occurs twice"),
        ([("x", torch.zeros(2, device="meta"))], "meta tensor"),
        ([("x", x.to_sparse())], "sparse_coo tensor"),
        ([("x", torch.zeros(2, dtype=torch.complex64))], "complex64"),
    ):
        with pytest.raises(CheckpointError, match=said) as caught:
            tensors_sha256(named)
        assert str(caught.value).endswith(".")


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_every_layout_and_sharding_of_the_same_weights_is_one_model(
    tmp_path: Path, small: Components, small_preset: Preset, dtype: torch.dtype | None
) -> None:
    save(small, small_preset, tmp_path / "x.safetensors", "sgm", dtype=dtype)
    save(small, small_preset, tmp_path / "whole", "diffusers", dtype=dtype)
    save(small, small_preset, tmp_path / "shards", "diffusers", dtype=dtype, max_shard_bytes=200_000)
    assert len(list((tmp_path / "shards" / "unet").glob("*.safetensors"))) > 1
    file = load(tmp_path / "x.safetensors", config=small_preset).components
    folders = [load(tmp_path / name).components for name in ("whole", "shards")]
    assert len({components_sha256(components) for components in (file, *folders)}) == 1
    assert (components_sha256(file) == components_sha256(small)) == (dtype is None)
    file.unet.conv_in.bias[0] += 0.5
    assert components_sha256(file) != components_sha256(folders[0])


def test_the_image_decoder_counts_where_it_is_asked_for(golden: Loaded, data: Path, small: Components) -> None:
    source, config = data / "golden" / "svd_small.safetensors", data / "golden" / "svd_small.json"
    plain = load(source, config=config, dtype=torch.float32).components
    both = golden.components
    assert components_sha256(both) == components_sha256(plain)
    assert components_sha256(both, with_image_decoder=True) != components_sha256(both)
    own = {name.split(".")[1] for name, _ in named_tensors(both, True) if name.startswith("image_decoder")}
    assert own == {"decoder", "post_quant_conv"}
    with pytest.raises(CheckpointError, match="no image decoder"):
        components_sha256(small, with_image_decoder=True)


def test_contiguous_numbers_are_hashed_where_they_lie() -> None:
    # Of Python's own memory: that of torch is not traced.
    tensors = [(str(i), torch.zeros(1_000_000)) for i in range(8)]
    tracemalloc.start()
    try:
        tensors_sha256(tensors)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000

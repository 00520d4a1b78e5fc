"""Bytes counted on tensors without numbers, against sums done by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stillmotion.models.memory import KERNEL_BYTES, META, count, kernel_bytes, weight_bytes

CPU, GPU = torch.device("cpu"), torch.device("cuda")
KB = 1000


def live_bytes(run: Callable[[], object], device: torch.device) -> int:
    return count(run, device).peak_bytes


def test_the_peak_is_what_lives_at_once() -> None:
    x = torch.empty(250, device=META)  # 1 KB, and not counted: it was there before

    def run() -> None:
        a = x + 1
        b = a + 1
        del a
        c = b.view(10, 25)  # no bytes of its own
        torch.cat([c, c])  # 2 KB beside b

    assert live_bytes(run, GPU) == 3 * KB


def test_what_is_returned_or_kept_counts_until_the_end() -> None:
    x = torch.empty(250, device=META)
    kept: list[torch.Tensor] = []
    assert live_bytes(lambda: kept.extend(x + i for i in range(5)), GPU) == 5 * KB


def test_views_of_what_was_there_before_take_nothing() -> None:
    x, weight = torch.empty(10, 100, device=META), torch.empty(50, 100, device=META)
    assert live_bytes(lambda: F.linear(x.view(2, 5, 100), weight), GPU) == 10 * 50 * 4


def test_attention_holds_no_scores() -> None:
    q = torch.empty(1, 1, 1000, 25, device=META)
    assert live_bytes(lambda: F.scaled_dot_product_attention(q, q, q), CPU) == q.nbytes


def test_tensors_seem_to_be_on_the_device_that_is_meant() -> None:
    seen: list[object] = []

    def run() -> None:
        x = torch.empty(2, device=META)
        seen.extend([x.device, float(x[0]), bool((x == x).all()), torch.arange(3, device=x.device).is_meta])

    count(run, CPU)
    assert seen == [CPU, 0.5, True, True]
    assert torch.empty(1, device=META).device == META


@pytest.mark.parametrize(("is_last", "copies"), [(True, 0), (False, 1)])
def test_a_convolution_on_the_cpu_copies_what_is_not_channels_last(is_last: bool, copies: int) -> None:
    x = torch.empty(2, 8, 16, 16, device=META)
    x = x.to(memory_format=torch.channels_last) if is_last else x
    weight = torch.empty(8, 8, 3, 3, device=META)
    assert kernel_bytes(torch.ops.aten.convolution.default, (x, weight)) == copies * x.nbytes
    assert live_bytes(lambda: F.conv2d(x, weight, padding=1), CPU) == (1 + copies) * x.nbytes
    assert live_bytes(lambda: F.conv2d(x, weight, padding=1), GPU) == x.nbytes


def test_weights_count_once_in_the_type_that_they_become() -> None:
    network = nn.Linear(10, 10)
    network.same = network.weight
    network.register_buffer("index", torch.zeros(3, dtype=torch.int64))
    assert weight_bytes(network, torch.bfloat16) == 110 * 2 + 3 * 8


def test_what_onednn_compiles_is_counted_once_a_shape() -> None:
    x, weight = torch.empty(1, 8, 8, 8, device=META), torch.empty(8, 8, 3, 3, device=META)

    def run() -> None:
        for height in (8, 8, 4):
            F.conv2d(x[:, :, :height], weight)

    assert count(run, CPU).kept_bytes == 2 * KERNEL_BYTES
    assert count(run, GPU).kept_bytes == count(lambda: x + 1, CPU).kept_bytes == 0

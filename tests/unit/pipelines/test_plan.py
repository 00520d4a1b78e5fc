"""Counted costs against the published counts of the released model."""

from __future__ import annotations

import dataclasses

import pytest

from stillmotion.diffusion.guidance import Unguided
from stillmotion.diffusion.samplers import Heun
from stillmotion.pipelines import plan
from stillmotion.pipelines.image_to_video import VideoSettings
from stillmotion.pipelines.plan import Cost, Rates, copy_rate, cost, expected, matrix_rate, rates_of
from stillmotion.placement import Placement, Savings
from stillmotion.presets import SVD, TINY

# TFLOP of one call at 14 x 576 x 1024, and the part of it in cross-attention, all but its constant saved here.
CALL, CROSS_ATTENTION, DECODE = 44.802, 1.722, 97.2


@pytest.mark.slow
def test_the_released_model_costs_what_was_published() -> None:
    counted = cost(SVD, VideoSettings(frames=14, steps=25), 1024, 576, "float16")
    assert counted.model_calls == 25
    assert counted.denoise_operations / 1e12 == pytest.approx(25 * 2 * (CALL - CROSS_ATTENTION), rel=0.003)
    assert counted.decode_operations / 1e12 == pytest.approx(DECODE, rel=0.01)
    assert counted.weight_bytes == 2 * (1_524_623_082 + 97_742_847 + 632_076_800)


@pytest.mark.slow
def test_calls_and_branches_are_counted() -> None:
    plain = cost(TINY, VideoSettings(frames=3, steps=4), 64, 64, "float32")
    alone = cost(TINY, VideoSettings(frames=3, steps=4, guider=Unguided()), 64, 64, "float32")
    heun = cost(TINY, VideoSettings(frames=3, steps=4, sampler=Heun()), 64, 64, "float32")
    assert plain.denoise_operations == pytest.approx(2 * alone.denoise_operations, rel=0.01)
    assert heun.model_calls == 7
    assert (alone.branches, plain.branches) == (1, 2)
    assert plain.encode_operations == alone.encode_operations > 0


# At 1 TFLOP/s and the share of 0.45 that accelerators reach: 1 s, 20 s and 3 s of computing; 4 calls of two branches.
COUNTED = Cost(0.45e12, 9e12, 1.35e12, model_calls=4, branches=2, weight_bytes=3 * 10**9, unet_bytes=2 * 10**9)
RATES = Rates(operations_per_s=1e12, bytes_per_s=1e9)
CPU, GPU = Placement(device="cpu", dtype="float32"), Placement(device="cuda", dtype="float16")
METAL = Placement(device="mps", dtype="float16")


def test_time_is_operations_over_the_rate() -> None:
    found = expected(COUNTED, METAL, RATES)
    assert (found.encode, found.denoise, found.decode, found.waiting) == pytest.approx((1, 20, 3, 0))
    twice = expected(COUNTED, METAL, Rates(2e12, 1e9))
    assert twice.seconds == pytest.approx(found.seconds / 2) == pytest.approx(12)


def test_a_processor_reaches_more_than_its_rate_where_convolutions_save_multiplications() -> None:
    found = expected(COUNTED, CPU, RATES)
    assert (found.encode, found.denoise, found.decode) == pytest.approx((0.45 / 0.8, 9 / 1.1, 1.35 / 1.4))


def test_the_rate_is_that_of_a_product_of_so_many_numbers() -> None:
    assert 1e8 < matrix_rate(CPU, size=256) < 1e14


def test_offloaded_weights_take_their_time() -> None:
    model = expected(COUNTED, dataclasses.replace(GPU, offload="model"), RATES)
    assert (model.encode, model.denoise, model.decode) == pytest.approx((2, 22, 3.5))  # 1, 2 and 0.5 GB once
    assert model.waiting == pytest.approx(3.5)
    layers = expected(COUNTED, dataclasses.replace(METAL, offload="sequential"), RATES)
    assert layers.denoise == pytest.approx(20 + 4 * 2)  # 2 GB a call
    in_turn = dataclasses.replace(METAL, offload="sequential", savings=Savings(branches="in-turn"))
    assert expected(COUNTED, in_turn, RATES).denoise == pytest.approx(20 + 8 * 2)


def test_copies_beside_the_computation_are_waited_for_where_they_are_longer() -> None:
    layers = dataclasses.replace(GPU, offload="sequential")
    found = expected(COUNTED, layers, RATES)
    assert (found.encode, found.denoise, found.decode, found.waiting) == pytest.approx((1, 20, 3, 0))
    slow = expected(COUNTED, layers, Rates(1e12, 1e8))
    assert (slow.encode, slow.denoise, slow.decode) == pytest.approx((10, 80, 5))
    assert slow.waiting == pytest.approx(9 + 60 + 2)


def test_copies_are_timed_only_where_something_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    assert copy_rate(CPU) > 1e7
    monkeypatch.setattr(plan, "matrix_rate", lambda placement: 5.0)
    monkeypatch.setattr(plan, "copy_rate", lambda placement: 7.0)
    assert rates_of(CPU) == Rates(5.0, float("inf"))
    assert rates_of(dataclasses.replace(CPU, offload="model")) == Rates(5.0, 7.0)

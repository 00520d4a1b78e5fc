"""Counted costs against the published counts of the released model."""

from __future__ import annotations

import pytest

from stillmotion.diffusion.guidance import Unguided
from stillmotion.diffusion.samplers import Heun
from stillmotion.pipelines.image_to_video import VideoSettings
from stillmotion.pipelines.plan import cost, expected_seconds
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


def test_calls_and_branches_are_counted() -> None:
    plain = cost(TINY, VideoSettings(frames=3, steps=4), 64, 64, "float32")
    alone = cost(TINY, VideoSettings(frames=3, steps=4, guider=Unguided()), 64, 64, "float32")
    heun = cost(TINY, VideoSettings(frames=3, steps=4, sampler=Heun()), 64, 64, "float32")
    assert plain.denoise_operations == pytest.approx(2 * alone.denoise_operations, rel=0.01)
    assert heun.model_calls == 7
    assert expected_seconds(plain, 2e12) == pytest.approx(expected_seconds(plain, 1e12) / 2)

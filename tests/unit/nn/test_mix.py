"""The blend in both readings, and the frames that stand alone."""

from __future__ import annotations

import pytest
import torch

from stillmotion.nn.mix import Mix


@pytest.mark.parametrize(("weighs_temporal", "share"), [(False, 0.880797), (True, 0.119203)])
def test_the_share_of_the_frame_wise_result(weighs_temporal: bool, share: float) -> None:
    mix = Mix(2.0, weighs_temporal)
    spatial, temporal = torch.full((1, 3, 2), 1.0), torch.full((1, 3, 2), 0.0)
    torch.testing.assert_close(mix(spatial, temporal), torch.full((1, 3, 2), share))


@pytest.mark.parametrize("weighs_temporal", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5, 6)])
def test_marked_frames_keep_the_frame_wise_result_alone(weighs_temporal: bool, shape: tuple[int, ...]) -> None:
    mix = Mix(0.7, weighs_temporal)
    spatial, temporal = torch.randn(shape), torch.randn(shape)
    images_only = torch.tensor([[True, False, False], [False, False, True]])
    blended, free = mix(spatial, temporal, images_only), mix(spatial, temporal)
    assert torch.equal(blended[images_only], spatial[images_only])
    assert torch.equal(blended[~images_only], free[~images_only])
    assert not torch.equal(free[images_only], spatial[images_only])


def test_the_factor_is_one_number_of_the_released_shape_and_learns() -> None:
    mix = Mix(0.5)
    assert mix.mix_factor.shape == (1,) and mix.mix_factor.item() == 0.5
    mix(torch.ones(1, 2, 3), torch.zeros(1, 2, 3)).sum().backward()
    assert mix.mix_factor.grad is not None and mix.mix_factor.grad.item() > 0


def test_the_precision_of_the_input_is_kept() -> None:
    x = torch.ones(1, 2, 3, dtype=torch.bfloat16)
    assert Mix(0.5)(x, x).dtype == torch.bfloat16

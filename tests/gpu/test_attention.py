"""Attention by the kernel that was fastest on this card."""

from __future__ import annotations

import pytest
import torch

from stillmotion.nn.attention import attend
from stillmotion.nn.backends import BACKENDS, CHOICES, DEFAULT, attend_by, case_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "shape",
    # In a video of 25 frames of 576 x 1024: within frames, and over the frames of each pixel.
    [(4, 5, 9216, 64), (4608, 20, 25, 64)],
)
def test_a_kernel_is_measured_once_and_gives_what_torchs_own_gives(
    dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator).to("cuda", dtype) for _ in range(3))
    with torch.inference_mode():
        made = attend(q, k, v)
        chosen = CHOICES.chosen[str(case_of(q, k))]
        print(f"{case_of(q, k)}: {chosen}")
        expected = attend_by(DEFAULT, q.float(), k.float(), v.float())
    assert chosen == DEFAULT or chosen in BACKENDS
    assert (made.float() - expected).abs().mean() < 0.01 * expected.abs().mean()


def test_training_keeps_torchs_own_kernel() -> None:
    q = torch.randn(2, 2, 5, 64, device="cuda", requires_grad=True)
    attend(q, q, q).sum().backward()
    assert q.grad is not None and q.grad.isfinite().all()

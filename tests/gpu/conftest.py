"""What the tests on a CUDA machine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def full_float32() -> Iterator[None]:
    """Products and convolutions in float32 proper, where cuDNN would round their factors to TF32's ten bits."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "ieee"
    yield
    for place, precision in zip(places, before, strict=True):
        place.fp32_precision = precision

"""Pictures to pixels and back, with no value changed on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stillmotion.errors import MediaError, UsageError
from stillmotion.media import pixels


def test_pixels_and_images_are_inverse_for_every_value():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    made = pixels.to_pixels([Image.fromarray(values)] * 2)
    assert made.shape == (2, 3, 16, 16)
    assert made.dtype == torch.float32
    assert made.is_contiguous()
    assert made[0, 0, 0, 0] == -1
    assert made[1, 2, 15, 15] == 1
    assert made[0, 1, 0, 5] == torch.tensor(5.0) / 127.5 - 1
    assert np.array_equal(pixels.to_uint8(made)[1], values)
    assert np.array_equal(np.asarray(pixels.to_images(made)[0]), values)


def test_frames_outside_the_range_are_clamped_and_rounded():
    frames = torch.tensor([-9.0, -1.0, 0.0, 0.0050, 1.0, 9.0]).reshape(1, 1, 1, 6)
    assert pixels.to_uint8(frames).ravel().tolist() == [0, 0, 128, 128, 255, 255]
    assert pixels.to_uint8(frames.bfloat16()).shape == (1, 1, 6, 1)
    assert pixels.to_uint8(frames[:0]).shape == (0, 1, 6, 1)


def test_frames_that_are_not_numbers_are_refused():
    frames = torch.zeros(2, 3, 4, 4)
    frames[1, 0, 0, 0] = torch.nan
    with pytest.raises(MediaError, match="1 values that are not numbers"):
        pixels.to_uint8(frames)
    for wrong in (torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, 4)):
        with pytest.raises(UsageError):
            pixels.to_images(wrong)


def test_pixels_need_images_of_one_size_and_mode():
    red = Image.new("RGB", (2, 2))
    for given in ([], [red, Image.new("RGB", (3, 2))], [red, Image.new("L", (2, 2))]):
        with pytest.raises(UsageError):
            pixels.to_pixels(given)

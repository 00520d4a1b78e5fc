"""CLIP's input against a float64 reference, and the tower's size."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from stillmotion.errors import UsageError
from stillmotion.models.image_encoder import (
    MEAN,
    STD,
    ImageEncoderConfig,
    _blur,
    build_image_encoder,
    clip_pixels,
)


def kernel_of(size: int) -> tuple[float, list[float]]:
    """Deviation and taps of the blur in front of a resize to 224. Source: inventory 3.9, kornia."""
    sigma = max((size / 224 - 1) / 2, 0.001)
    taps = int(max(4 * sigma, 3))
    taps += 1 - taps % 2
    weights = [math.exp(-((i - taps // 2) ** 2) / (2 * sigma**2)) for i in range(taps)]
    return sigma, [w / sum(weights) for w in weights]


def cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.25 * x**3 - 2.25 * x**2 + 1
    return -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resize_matrix(size: int) -> torch.Tensor:
    """Blur with reflected borders, then bicubic with aligned corners and repeated edges, as one matrix."""
    _, weights = kernel_of(size)
    blur = torch.zeros(size, size, dtype=torch.float64)
    half = len(weights) // 2
    for i in range(size):
        for k, weight in enumerate(weights):
            j = abs(i + k - half)
            blur[i, 2 * (size - 1) - j if j >= size else j] += weight
    sample = torch.zeros(224, size, dtype=torch.float64)
    for i in range(224):
        position = i * (size - 1) / 223
        for j in range(math.floor(position) - 1, math.floor(position) + 3):
            sample[i, min(max(j, 0), size - 1)] += cubic(position - j)
    return sample @ blur


def test_the_kernels_of_the_trained_size() -> None:
    for size, expected_sigma, taps in ((576, 0.786, 3), (1024, 1.786, 7)):
        sigma, weights = kernel_of(size)
        assert abs(sigma - expected_sigma) < 5e-4 and len(weights) == taps
    impulse = torch.zeros(1, 1, 576, 1024, dtype=torch.float64)
    impulse[0, 0, 300, 500] = 1
    blurred = _blur(impulse)[0, 0]
    expected = torch.outer(torch.tensor(kernel_of(576)[1]), torch.tensor(kernel_of(1024)[1])).double()
    torch.testing.assert_close(blurred[299:302, 497:504], expected, rtol=0, atol=1e-7)
    assert abs(blurred.sum().item() - 1) < 1e-12 and (blurred != 0).sum() == 21


@pytest.mark.parametrize(("height", "width"), [(300, 520), (64, 128), (224, 224), (1000, 31)])
def test_the_whole_resize_in_float64(height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    small = resize_matrix(height) @ images @ resize_matrix(width).T
    mean, std = torch.tensor(MEAN).double()[:, None, None], torch.tensor(STD).double()[:, None, None]
    torch.testing.assert_close(clip_pixels(images), ((small + 1) / 2 - mean) / std, rtol=0, atol=1e-6)
    torch.testing.assert_close(clip_pixels(images.float()).double(), ((small + 1) / 2 - mean) / std, rtol=0, atol=3e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2000), (2, 3)])
def test_tiny_images_are_taken(height: int, width: int) -> None:
    pixels = clip_pixels(torch.full((1, 3, height, width), 0.5))
    expected = (torch.full((3,), 0.75) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(pixels[0].mean(dim=(1, 2)), expected, rtol=1e-4, atol=1e-4)
    assert pixels.shape == (1, 3, 224, 224) and pixels.std(dim=(2, 3)).max() < 1e-4


def test_the_result_is_not_clamped() -> None:
    checks = (torch.arange(40) // 4 % 2 * 2 - 1).float().expand(1, 3, 40, 40)
    assert clip_pixels(checks)[:, 0].max() > (1 - MEAN[0]) / STD[0] + 0.05


def test_the_released_size() -> None:
    with torch.device("meta"):
        tower = build_image_encoder(ImageEncoderConfig())
    assert sum(p.numel() for p in tower.parameters()) == 632_076_800
    assert not tower.training


def test_fresh_weights_have_the_deviations_that_clip_trained_from() -> None:
    width, layers = 256, 3
    torch.manual_seed(0)
    cfg = ImageEncoderConfig(width=width, mlp_width=512, layers=layers, heads=4, patch_size=32, projection_width=128)
    weights = build_image_encoder(cfg).state_dict()
    deep = (2 * layers) ** -0.5
    block = "vision_model.encoder.layers.1."
    deviations = {
        "vision_model.embeddings.patch_embedding.weight": 0.02,
        "vision_model.embeddings.position_embedding.weight": 0.02,
        f"{block}self_attn.q_proj.weight": width**-0.5 * deep,
        f"{block}self_attn.out_proj.weight": width**-0.5,
        f"{block}mlp.fc1.weight": (2 * width) ** -0.5,
        f"{block}mlp.fc2.weight": width**-0.5 * deep,
        "visual_projection.weight": width**-0.5,
    }
    for name, deviation in deviations.items():
        assert weights[name].std().item() == pytest.approx(deviation, rel=0.03), name
    assert not any(weights[name].any() for name in weights if name.endswith("proj.bias"))


def test_another_size_than_the_towers_is_refused() -> None:
    tower = build_image_encoder(ImageEncoderConfig(width=8, mlp_width=8, layers=1, heads=1, patch_size=56))
    with pytest.raises(UsageError, match=r"got 100x224 pixels; expected 224x224\."):
        tower(torch.zeros(1, 3, 224, 100))


@pytest.mark.parametrize(
    "changes",
    [
        *({name: 0} for name in ("width", "mlp_width", "layers", "heads", "patch_size", "image_size")),
        {"projection_width": -1},
        {"heads": 7},
        {"patch_size": 225},
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="expected"):
        dataclasses.replace(ImageEncoderConfig(), **changes)

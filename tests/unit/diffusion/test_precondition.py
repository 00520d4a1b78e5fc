"""Scalings: a perfect network gives the clean signal back, and every target has unit variance."""

from __future__ import annotations

import pytest
import torch

from stillmotion.diffusion.precondition import EDM, Eps, V, VWithEDMNoise, denoised, scalings

SIGMAS = torch.tensor([0.002, 0.3, 1.0, 14.6, 700.0], dtype=torch.float64)
KINDS = (EDM(), EDM(sigma_data=1.7), Eps(), V(), VWithEDMNoise())


@pytest.mark.parametrize("kind", KINDS)
def test_input_and_target_have_unit_variance(kind: EDM | Eps | V | VWithEDMNoise) -> None:
    data = kind.sigma_data if isinstance(kind, EDM) else 1.0
    scale = scalings(kind, SIGMAS)
    torch.testing.assert_close(scale.c_in**2 * (data**2 + SIGMAS**2), torch.ones(5).double())
    # Karras 2022, equation 114: the variance of (clean - c_skip x) / c_out.
    target = ((1 - scale.c_skip) ** 2 * data**2 + scale.c_skip**2 * SIGMAS**2) / scale.c_out**2
    torch.testing.assert_close(target, torch.ones(5).double())


def test_the_numbers_of_stable_video_diffusion() -> None:
    scale = scalings(VWithEDMNoise(), torch.tensor([700.0, 0.002, 3.0], dtype=torch.float64))
    torch.testing.assert_close(scale.c_noise[:2], torch.tensor([1.637770, -1.553652]).double(), rtol=0, atol=1e-6)
    assert scale.c_skip[2].item() == pytest.approx(0.1)
    assert scale.c_out[2].item() == pytest.approx(-3 / 10**0.5)
    assert scale.c_in[2].item() == pytest.approx(1 / 10**0.5)


def test_what_the_network_reads_as_noise_level() -> None:
    for kind in (Eps(), V()):
        assert torch.equal(scalings(kind, SIGMAS).c_noise, SIGMAS)
    for kind in (EDM(), VWithEDMNoise()):
        torch.testing.assert_close(scalings(kind, SIGMAS).c_noise, SIGMAS.log() / 4)


@pytest.mark.parametrize("kind", [Eps(), V(), VWithEDMNoise()])
def test_a_perfect_network_recovers_the_clean_signal(kind: Eps | V | VWithEDMNoise) -> None:
    sigma = torch.tensor([0.3, 14.6])
    clean, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    level = sigma[:, None, None]
    x = clean + level * noise
    total = (level**2 + 1).sqrt()
    # Salimans 2022: v = alpha noise - sigma clean, at alpha = 1 / total and sigma = level / total.
    target = noise if isinstance(kind, Eps) else (noise - level * clean) / total

    def network(scaled: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(scaled, x / total)
        torch.testing.assert_close(c_noise, sigma.log() / 4 if isinstance(kind, VWithEDMNoise) else sigma)
        return target

    torch.testing.assert_close(denoised(network, kind, x, sigma), clean, rtol=1e-4, atol=1e-4)


def test_a_table_gives_the_nearest_level_and_its_index() -> None:
    table = torch.tensor([0.1, 1.0, 4.0])
    seen: list[torch.Tensor] = []

    def network(scaled: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        seen.append(c_noise)
        return torch.zeros_like(scaled) + 1

    sigma = torch.tensor([0.0, 0.54, 0.56, 2.4, 2.6, 90.0])
    x = torch.randn(6, 2)
    for kind in (Eps(), V()):
        found = denoised(network, kind, x, sigma, table)
        index = seen.pop()
        assert index.tolist() == [0, 0, 1, 1, 2, 2] and index.dtype == torch.float32
        scale = scalings(kind, table[index.long()])
        torch.testing.assert_close(found, scale.c_skip[:, None] * x + scale.c_out[:, None])


def test_a_falling_table_counts_from_its_own_start() -> None:
    seen: list[list[float]] = []

    def network(scaled: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        seen.append(c_noise.tolist())
        return scaled

    denoised(network, Eps(), torch.zeros(1, 2), torch.tensor([4.1]), torch.tensor([4.0, 1.0, 0.1]))
    assert seen == [[0.0]]


def test_a_low_precision_network_is_combined_in_float32() -> None:
    x = torch.full((1, 2), 1 / 3)
    found = denoised(lambda scaled, c_noise: scaled.bfloat16() * 0, V(), x, torch.tensor([1.0]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x / 2)

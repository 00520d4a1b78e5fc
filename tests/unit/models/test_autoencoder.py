"""The autoencoder: released sizes, moments, both decoders, and chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from stillmotion.errors import UsageError
from stillmotion.events import Progress
from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig, Moments, decode_in_chunks
from stillmotion.models.components import Components


@pytest.fixture
def autoencoder(tiny_components: Components) -> Autoencoder:
    return tiny_components.autoencoder


def test_the_released_sizes() -> None:
    with torch.device("meta"):
        temporal, image = Autoencoder(AutoencoderConfig()), Autoencoder(AutoencoderConfig(decoder="image"))
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in temporal.named_children()}
    assert sum(count.values()) == 97_742_847
    assert count == {"encoder": 34_163_592, "decoder": 63_579_183, "quant_conv": 72}
    assert sum(p.numel() for p in image.decoder.parameters()) == 49_490_179
    assert sum(p.numel() for p in image.post_quant_conv.parameters()) == 20
    assert AutoencoderConfig().downsampling == 8


def test_moments_are_mean_and_clamped_log_variance() -> None:
    logvar = torch.tensor([-50.0, 50, 1, -1]).reshape(1, 1, 4, 1, 1).expand(1, 2, 4, 1, 1)
    raw = torch.cat([torch.full((1, 2, 4, 1, 1), 0.5), logvar], dim=2)
    moments = Moments(raw)
    assert torch.equal(moments.mean, raw[:, :, :4])
    assert moments.logvar[0, 0].flatten().tolist() == [-30, 20, 1, -1]
    noise = torch.randn(1, 2, 4, 1, 1)
    torch.testing.assert_close(moments.sample(noise), 0.5 + torch.exp(moments.logvar / 2) * noise)


def test_the_divergence_is_that_of_torch() -> None:
    raw = torch.randn(3, 2, 8, 2, 2)
    moments = Moments(raw)
    normal = torch.distributions.Normal(moments.mean, (0.5 * moments.logvar).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(moments.kl(), expected)


def test_the_encoder_works_frame_by_frame_and_halves_each_level_but_the_last(autoencoder: Autoencoder) -> None:
    frames = torch.rand(2, 3, 3, 6, 10) * 2 - 1
    moments = autoencoder.encode(frames)
    assert moments.mean.shape == (2, 3, 4, 3, 5) and autoencoder.cfg.downsampling == 2
    one = autoencoder.encode(frames[1:, 2:])
    torch.testing.assert_close(moments.mean[1:, 2:], one.mean, rtol=1e-4, atol=1e-4)


def test_reconstruction_goes_through_the_mean(autoencoder: Autoencoder) -> None:
    frames = torch.rand(1, 3, 3, 8, 4)
    found = autoencoder(frames)
    assert found.shape == frames.shape
    assert torch.equal(found, autoencoder.decode(autoencoder.encode(frames).mean))


def test_the_temporal_decoder_sees_all_frames_and_the_image_decoder_one(tiny_components: Components) -> None:
    latents = torch.randn(1, 3, 4, 3, 4)
    changed = latents.clone()
    changed[:, 0] += 1
    temporal, image = tiny_components.autoencoder, tiny_components.image_decoder
    assert image is not None
    assert (temporal.decode(changed) - temporal.decode(latents))[:, 1:].abs().max() > 1e-3
    assert torch.equal(image.decode(changed)[:, 1:], image.decode(latents)[:, 1:])
    folded = image.post_quant_conv(latents[:, 0])[:, None]
    torch.testing.assert_close(image.decode(latents)[:, :1], image.decoder(folded), rtol=1e-4, atol=1e-4)


def test_frames_marked_as_images_reach_only_the_last_convolution(autoencoder: Autoencoder) -> None:
    latents = torch.randn(1, 4, 4, 2, 2)
    changed = latents.clone()
    changed[:, 0] += 1
    alone = torch.ones(1, 4, dtype=torch.bool)
    moved = (autoencoder.decode(changed, alone) - autoencoder.decode(latents, alone)).abs().amax(dim=(0, 2, 3, 4))
    assert moved[:2].min() > 1e-3 and moved[2:].tolist() == [0, 0]


@pytest.mark.parametrize("chunk", [3, 4, 100])
def test_a_chunk_of_the_whole_video_equals_decode_and_never_mixes_videos(autoencoder: Autoencoder, chunk: int) -> None:
    latents = torch.randn(2, 3, 4, 2, 3)
    found = decode_in_chunks(autoencoder.decode, latents, chunk)
    for i in range(2):
        assert torch.equal(found[i : i + 1], autoencoder.decode(latents[i : i + 1]))


@pytest.mark.parametrize("chunk", [1, 2])
def test_smaller_chunks_stand_alone(autoencoder: Autoencoder, chunk: int) -> None:
    latents = torch.randn(2, 3, 4, 2, 3)
    events: list[Progress] = []
    found = decode_in_chunks(autoencoder.decode, latents, chunk, events.append)
    for i in range(2):
        for first in range(0, 3, chunk):
            part = slice(first, first + chunk)
            assert torch.equal(found[i : i + 1, part], autoencoder.decode(latents[i : i + 1, part]))
    assert not torch.allclose(found, autoencoder.decode(latents), atol=1e-3)
    done = {1: [0, 1, 2, 3, 4, 5, 6], 2: [0, 2, 3, 5, 6]}[chunk]
    assert events == [Progress("decode", count, 6) for count in done]


def test_the_decoders_blend_reads_its_factor_as_the_share_of_time(autoencoder: Autoencoder) -> None:
    latents = torch.randn(1, 3, 4, 2, 2)
    alone = torch.ones(1, 3, dtype=torch.bool)
    for name, parameter in autoencoder.decoder.named_parameters():
        if name.endswith("mix_factor"):
            parameter.fill_(-100.0)
    torch.testing.assert_close(autoencoder.decode(latents), autoencoder.decode(latents, alone))


def test_more_layers_add_middle_blocks_to_the_temporal_decoder_alone(redraw: Callable[..., None]) -> None:
    cfg = AutoencoderConfig(channels=(32, 32), layers=3)
    temporal, image = Autoencoder(cfg), Autoencoder(dataclasses.replace(cfg, decoder="image"))
    assert len(temporal.decoder.mid_block.resnets) == 3 and len(image.decoder.mid_block.resnets) == 2
    assert temporal(torch.zeros(1, 1, 3, 4, 4)).shape == image(torch.zeros(1, 1, 3, 4, 4)).shape


def test_channels_that_the_norms_cannot_group_are_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        AutoencoderConfig(channels=(32, 48))


@pytest.mark.parametrize(
    "changes",
    [
        *({name: 0} for name in ("image_channels", "latent_channels", "layers", "sample_size")),
        *({"channels": channels} for channels in ((), (0, 32), (-32,))),
        *({"scaling_factor": factor} for factor in (0.0, -1.0, float("inf"), float("nan"))),
    ],
)
def test_impossible_sizes_and_scales_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        AutoencoderConfig(**changes)

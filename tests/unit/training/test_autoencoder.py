"""Training the autoencoder: the loss falls, what is frozen stays, and time starts as the identity."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.training.autoencoder import (
    batch_of_clips,
    batch_of_frames,
    reconstruction_loss,
    skip_extra_middle,
    temporal_from_frames,
    train_clips,
    train_frames,
)
from stillmotion.training.config import AutoencoderTraining, LoopConfig, OptimizerConfig
from stillmotion.training.toys import ToyConfig

MODEL = AutoencoderConfig(channels=(32, 32), layers=1, sample_size=16)
CFG = AutoencoderTraining(
    loop=LoopConfig(steps=24, batch_size=2, log_every=6, optimizer=OptimizerConfig(lr=3e-3, warmup_steps=2)),
    toys=ToyConfig(width=24, height=16, frames=3),
    clip_frames=3,
)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_frame_wise_autoencoder_learns(tmp_path: Path, precision: str) -> None:
    loop = dataclasses.replace(CFG.loop, precision=precision)  # type: ignore[arg-type]
    network, ema = train_frames(dataclasses.replace(CFG, loop=loop), MODEL, tmp_path)
    found = losses(tmp_path)
    assert found[-1] < 0.93 * found[0]
    identity = torch.eye(4)[:, :, None, None]
    assert torch.equal(network.post_quant_conv.weight, identity) and not network.post_quant_conv.bias.any()  # type: ignore[union-attr]
    assert network.encoder.conv_in.weight.dtype == torch.float32
    assert set(ema.averages) == {f"autoencoder.{name}" for name, _ in network.named_parameters()}


@pytest.mark.slow
def test_the_layers_across_frames_learn_behind_a_frozen_encoder(tmp_path: Path) -> None:
    torch.manual_seed(3)
    frames_model = Autoencoder(dataclasses.replace(MODEL, decoder="image"))
    network, _ = train_clips(CFG, MODEL, frames_model, tmp_path)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    for key, value in frames_model.state_dict().items():
        if key.startswith(("encoder", "quant_conv")):
            assert torch.equal(network.state_dict()[key], value), key
    assert network.decoder.mid_block.resnets[0].temporal_res_block.conv2.weight.any()


@pytest.mark.parametrize("layers", [1, 2])
def test_the_temporal_autoencoder_starts_as_the_frame_wise_one(layers: int, redraw: Callable[..., None]) -> None:
    model = dataclasses.replace(MODEL, layers=layers)
    frames_model = Autoencoder(dataclasses.replace(model, decoder="image"))
    redraw(frames_model)
    torch.nn.init.dirac_(frames_model.post_quant_conv.weight)
    torch.nn.init.zeros_(frames_model.post_quant_conv.bias)  # type: ignore[arg-type]
    skip_extra_middle(frames_model)
    temporal = temporal_from_frames(model, frames_model)
    frames = torch.rand(1, 3, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(temporal(frames), frames_model(frames), rtol=1e-4, atol=1e-4)


def test_training_keeps_what_the_temporal_decoder_lacks_an_identity(tmp_path: Path) -> None:
    network, _ = train_frames(dataclasses.replace(CFG, loop=dataclasses.replace(CFG.loop, steps=3)), MODEL, tmp_path)
    middle = network.decoder.mid_block
    x = torch.randn(1, 1, 32, 4, 4)
    with torch.no_grad():
        assert torch.equal(middle.resnets[1](middle.attentions[0](x)), x)


def test_the_loss_sees_pixels_edges_colour_and_patches() -> None:
    frames = torch.zeros(1, 1, 3, 8, 8)
    cfg = AutoencoderTraining(edge_weight=7.0, colour_weight=100.0, patch_weight=1000.0)
    assert reconstruction_loss(frames + 0.5, frames, cfg).item() == pytest.approx(0.5 + 0.25 + 1000 * 0.5)
    stripes = frames.clone()
    stripes[..., ::2] = 1
    assert reconstruction_loss(stripes, frames, cfg).item() == pytest.approx(0.5 + 0.5 + 7 * 1 + 1000 * 0.5)
    red = frames.clone()
    red[:, :, 0] = 1
    assert reconstruction_loss(red, frames, cfg).item() == pytest.approx(2 / 3 + 100 * 1.5 + 1000 / 3, rel=1e-5)


def test_no_step_sees_the_scene_of_another() -> None:
    batches = [batch_of_frames(CFG, step) for step in range(3)]
    assert batches[0].shape == (2, 1, 3, 16, 24)
    frames = torch.cat(batches).flatten(1)
    assert torch.cdist(frames, frames).fill_diagonal_(9).min() > 1
    assert torch.equal(batches[1], batch_of_frames(CFG, 1))
    clips = batch_of_clips(CFG, 0)
    assert clips.shape == (2, 3, 3, 16, 24) and torch.equal(clips, batch_of_clips(CFG, 0))

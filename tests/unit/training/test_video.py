"""Training the video U-Net: true labels, every clip once an epoch, and a loss that falls."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.image_encoder import ImageEncoderConfig
from stillmotion.models.unet import UNetConfig
from stillmotion.presets import TINY, Preset
from stillmotion.training import video
from stillmotion.training.config import LoopConfig, OptimizerConfig, VideoTraining
from stillmotion.training.loop import generator
from stillmotion.training.toys import ToyConfig, render_clip

CFG = VideoTraining(
    loop=LoopConfig(steps=30, batch_size=3, log_every=10, optimizer=OptimizerConfig(lr=1e-2, warmup_steps=3)),
    sigma_deviation=0.3,
    toys=ToyConfig(width=24, height=16, frames=3),
    clips=5,
)


@pytest.fixture
def preset(tiny_unet_config: UNetConfig) -> Preset:
    return dataclasses.replace(
        TINY,
        name="debug",
        unet=tiny_unet_config,
        autoencoder=AutoencoderConfig(channels=(32, 32), layers=1),
        image_encoder=ImageEncoderConfig(width=32, mlp_width=64, layers=1, heads=2, patch_size=56, projection_width=24),
    )


@pytest.fixture
def autoencoder(preset: Preset, redraw: Callable[..., None]) -> Autoencoder:
    network = Autoencoder(preset.autoencoder)
    redraw(network)
    network.eval().requires_grad_(False)
    scale = 1 / video.latent_deviation(network, CFG, scenes=8)
    network.cfg = dataclasses.replace(network.cfg, scaling_factor=scale)
    return network


@pytest.mark.slow
def test_training_lowers_the_loss(preset: Preset, autoencoder: Autoencoder, tmp_path: Path) -> None:
    clips = video.encode_clips(CFG, autoencoder, tmp_path / "data")
    ema = video.train_video(CFG, video.new_networks(preset, autoencoder, 0), clips, tmp_path)
    found = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert found[-1] < 0.9 * found[0], found
    assert {name.split(".")[0] for name in ema.averages} == {"unet", "image_encoder"}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize(("steps", "saved"), [(3, 2), pytest.param(30, 20, marks=pytest.mark.slow)])
def test_training_resumes_to_the_same_bits(
    steps: int,
    saved: int,
    kind: Literal["adamw", "muon"],
    preset: Preset,
    autoencoder: Autoencoder,
    tmp_path: Path,
) -> None:
    optimizer = dataclasses.replace(CFG.loop.optimizer, kind=kind)
    cfg = dataclasses.replace(CFG, loop=dataclasses.replace(CFG.loop, steps=steps, optimizer=optimizer))
    clips = video.encode_clips(cfg, autoencoder, tmp_path / "data")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    video.train_video(cfg, video.new_networks(preset, autoencoder, 0), clips, whole)
    saving = dataclasses.replace(cfg, loop=dataclasses.replace(cfg.loop, save_every=saved))

    def kill(event: object) -> None:
        if (parts / "state.safetensors").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.train_video(saving, video.new_networks(preset, autoencoder, 0), clips, parts, kill)
    video.train_video(saving, video.new_networks(preset, autoencoder, 0), clips, parts)
    # Tensors, not bytes: safetensors writes its metadata in no fixed order.
    resumed, straight = (load_file(folder / "state.safetensors") for folder in (parts, whole))
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)


@pytest.mark.slow
def test_the_data_set_is_encoded_once_with_its_true_labels(
    autoencoder: Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "CLIPS_A_FILE", 2)
    clips = video.encode_clips(CFG, autoencoder, tmp_path)
    assert len(clips) == 5 and len(list(tmp_path.glob("*.safetensors"))) == 3
    for row in (0, 4):
        truth = render_clip(CFG.toys, CFG.first_seed + row)
        assert clips.fps[row] == truth.fps and clips.motion_bucket[row] == truth.motion_bucket
        pixels = clips.first_frames[row].float() / 127.5 - 1
        assert (pixels - truth.frames[0]).abs().max() <= 0.5 / 127.5 + 1e-6
        expected = autoencoder.encode(truth.frames[None]).mean[0] * autoencoder.cfg.scaling_factor
        torch.testing.assert_close(clips.latents[row].float(), expected, rtol=2e-3, atol=2e-3)
    monkeypatch.setattr(video, "render_clip", lambda *_: pytest.fail("rendered again"))
    again = video.encode_clips(CFG, autoencoder, tmp_path)
    assert torch.equal(again.latents, clips.latents)


def test_scaled_latents_have_unit_deviation(autoencoder: Autoencoder, tmp_path: Path) -> None:
    clips = video.encode_clips(CFG, autoencoder, tmp_path)
    assert clips.latents.float().std().item() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(("clips", "size"), [(5, 3), (7, 7), (3, 8), (4, 1)])
def test_every_epoch_is_one_shuffle_of_the_whole_set(clips: int, size: int) -> None:
    cfg = dataclasses.replace(CFG, loop=dataclasses.replace(CFG.loop, batch_size=size))
    rows = torch.cat([video.batch_rows(cfg, clips, step) for step in range(4 * clips)]).tolist()
    epochs = [rows[i * clips : (i + 1) * clips] for i in range(4 * size)]
    assert all(sorted(epoch) == list(range(clips)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    other = dataclasses.replace(cfg, loop=dataclasses.replace(cfg.loop, seed=1))
    assert rows != torch.cat([video.batch_rows(other, clips, step) for step in range(4 * clips)]).tolist()


def test_the_first_steps_see_half_of_each_clip(autoencoder: Autoencoder, tmp_path: Path) -> None:
    clips = video.encode_clips(CFG, autoencoder, tmp_path)
    cfg = dataclasses.replace(CFG, short_share=0.5)
    lengths = [video.batch_of(cfg, clips, step).latents.shape[1] for step in range(cfg.loop.steps)]
    assert lengths == [2] * 15 + [3] * 15
    short, whole = video.batch_of(cfg, clips, 3), video.batch_of(CFG, clips, 3)
    assert torch.equal(short.latents, whole.latents[:, :2])
    assert torch.equal(short.first_frames, whole.first_frames)


def test_the_condition_of_a_batch(preset: Preset, autoencoder: Autoencoder, tmp_path: Path) -> None:
    clips = video.encode_clips(CFG, autoencoder, tmp_path)
    networks = video.new_networks(preset, autoencoder, 0)
    batch = video.batch_of(CFG, clips, 0)
    shown = video.draw_condition(dataclasses.replace(CFG, dropout=0.0), networks, batch, generator(0, 0))
    assert torch.equal(shown.numbers[:, 0], batch.fps - 1)
    assert torch.equal(shown.numbers[:, 1], batch.motion_bucket)
    assert (shown.numbers[:, 2] > 0).all() and len(set(shown.numbers[:, 2].tolist())) == 3
    assert shown.context.requires_grad and not shown.image_latents.requires_grad
    hidden = video.draw_condition(dataclasses.replace(CFG, dropout=1.0), networks, batch, generator(0, 0))
    assert not hidden.context.any() and torch.equal(hidden.image_latents, shown.image_latents)


def test_new_networks_start_from_nothing_and_freeze_the_autoencoder(preset: Preset, autoencoder: Autoencoder) -> None:
    first, second = (video.new_networks(preset, autoencoder, 5) for _ in range(2))
    assert not first.unet.conv_out.weight.any()
    assert torch.equal(first.unet.conv_in.weight, second.unet.conv_in.weight)
    assert not any(p.requires_grad for p in first.autoencoder.parameters())
    assert all(p.requires_grad for p in first.unet.parameters())


def test_another_renderer_does_not_take_the_clips_of_the_one_before(
    autoencoder: Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video.encode_clips(CFG, autoencoder, tmp_path)
    before = set(tmp_path.glob("*.safetensors"))
    monkeypatch.setattr(video, "VERSION", video.VERSION + 1)
    video.encode_clips(CFG, autoencoder, tmp_path)
    assert before < set(tmp_path.glob("*.safetensors"))

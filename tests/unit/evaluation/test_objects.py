"""The detector finds what is there, in its place, and not what is not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from stillmotion.evaluation.objects import find, found_share
from stillmotion.media.pixels import to_uint8
from stillmotion.training.toys import PALETTE, ToyConfig, render_clip

SEEDS = range(40, 70)


def test_rendered_shapes_are_found_in_nearly_every_frame() -> None:
    shares = []
    for seed in SEEDS:
        clip = render_clip(ToyConfig(), seed)
        video = to_uint8(clip.frames)
        shares += [found_share(video[0], video, PALETTE[shape.colour]) for shape in clip.scene.shapes]
    seen = [share for share in shares if share is not None]
    assert len(seen) >= 0.95 * len(shares) and np.mean(seen) >= 0.95


def test_colours_that_are_not_there_are_hardly_ever_found() -> None:
    ghosts = []
    for seed in SEEDS:
        clip = render_clip(ToyConfig(), seed)
        frame = to_uint8(clip.frames)[0]
        absent = set(PALETTE) - {shape.colour for shape in clip.scene.shapes}
        ghosts += [(seen := find(frame, PALETTE[name])) is not None and seen.area >= 12 for name in absent]
    assert np.mean(ghosts) <= 0.15


def test_a_shape_is_found_where_it_is() -> None:
    cfg = dataclasses.replace(ToyConfig(), objects=(1, 1))
    clip = render_clip(cfg, 3)
    shape = clip.scene.shapes[0]
    seen = find(to_uint8(clip.frames)[0], PALETTE[shape.colour])
    assert seen is not None
    assert seen.centre == pytest.approx(tuple(cfg.height * p for p in shape.position), abs=3)


def test_a_video_that_loses_its_object_is_told_from_one_that_keeps_it() -> None:
    clip = render_clip(dataclasses.replace(ToyConfig(), objects=(1, 1)), 3)
    video = to_uint8(clip.frames)
    grey = np.broadcast_to(video.mean(axis=-1, keepdims=True).astype(np.uint8), video.shape)
    colour = PALETTE[clip.scene.shapes[0].colour]
    half = np.concatenate([video[:7], grey[7:]])
    assert found_share(video[0], half, colour) == 0.5
    assert found_share(grey[0], video, colour) is None

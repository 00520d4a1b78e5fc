"""Procedural clips: the same for a seed, with labels that tell the truth."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from stillmotion.training.toys import (
    CAMERAS,
    FULL_SCALE_SPEED,
    LIGHT,
    Scene,
    Shape,
    ToyConfig,
    _background,
    bounce,
    draw_scene,
    motion_bucket,
    motion_speed,
    render_clip,
    texture,
)

CFG = ToyConfig(width=48, height=32, frames=4)
STILL = Scene("still", (0.0, 0.0), 0.0, 0.0, (), 10, 5)


def test_a_clip_is_a_function_of_its_seed() -> None:
    first, second, other = render_clip(CFG, 3), render_clip(CFG, 3), render_clip(CFG, 4)
    assert torch.equal(first.frames, second.frames) and first.scene == second.scene
    assert not torch.equal(first.frames, other.frames)
    assert first.frames.shape == (4, 3, 32, 48) and first.frames.dtype == torch.float32
    assert first.frames.min() >= -1 and first.frames.max() <= 1


def test_labels_keep_to_the_configuration() -> None:
    clips = [render_clip(dataclasses.replace(CFG, frames=1, width=16, height=12), seed) for seed in range(60)]
    assert {clip.fps for clip in clips} == set(range(5, 13))
    assert {len(clip.scene.shapes) for clip in clips} == {1, 2, 3}
    assert {clip.scene.camera for clip in clips} == set(CAMERAS)
    buckets = [clip.motion_bucket for clip in clips]
    assert min(buckets) < 40 and max(buckets) > 180 and all(0 <= bucket <= 255 for bucket in buckets)
    for clip in clips:
        words = clip.scene.caption
        assert all(shape.kind in words and shape.colour in words for shape in clip.scene.shapes)


def test_the_bucket_rises_with_the_speed_and_is_full_at_its_scale() -> None:
    speeds = np.linspace(0, 1, 50)
    buckets = [motion_bucket(float(speed)) for speed in speeds]
    assert buckets == sorted(buckets) and buckets[0] == 0 and buckets[-1] == 255
    assert motion_bucket(FULL_SCALE_SPEED) == 255
    assert motion_bucket(FULL_SCALE_SPEED / 2) == pytest.approx(127.5, abs=0.5)


CAMERA_MOTIONS = (
    {"pan": (0.3, 0.0)},
    {"pan": (0.0, -0.2)},
    {"zoom": 0.4},
    {"turn": -0.5},
    {"pan": (0.1, 0.2), "zoom": -0.3},
)


@pytest.mark.parametrize("motion", CAMERA_MOTIONS, ids=str)
def test_the_speed_is_that_of_the_rendered_background(motion: dict[str, float | tuple[float, float]]) -> None:
    """Optical flow measured from the rendered frames: the brightness constraint, solved by least squares."""
    cfg = ToyConfig(width=96, height=64, frames=2)
    scene = dataclasses.replace(STILL, **motion)  # type: ignore[arg-type]
    dt = 0.01
    frames = _background(cfg, scene, torch.tensor([0.0, dt])).mean(dim=1).double()
    aspect = cfg.width / cfg.height
    y = ((torch.arange(64) + 0.5) / 64 - 0.5).double()[:, None].expand(64, 96)
    x = (((torch.arange(96) + 0.5) / 96 - 0.5) * aspect).double()[None].expand(64, 96)
    middle = frames.mean(dim=0)
    gradient_y, gradient_x = (torch.gradient(middle, spacing=1 / 64, dim=axis)[0] for axis in (0, 1))
    # flow = (px + zoom x - turn y, py + zoom y + turn x), and brightness is constant along it.
    columns = [gradient_x, gradient_y, gradient_x * x + gradient_y * y, gradient_y * x - gradient_x * y]
    system = torch.stack([column.flatten() for column in columns], dim=1)
    change = (frames[1] - frames[0]).flatten() / dt
    found = torch.linalg.lstsq(system, -change[:, None]).solution[:, 0]
    expected = torch.tensor([*scene.pan, scene.zoom, scene.turn]).double()
    assert (found - expected).abs().max() < 0.12 * expected.abs().max(), (found, expected)
    flow_x = found[0] + found[2] * x - found[3] * y
    flow_y = found[1] + found[2] * y + found[3] * x
    assert motion_speed(cfg, scene) == pytest.approx(torch.hypot(flow_x, flow_y).mean().item(), rel=0.15)


def test_a_still_camera_shows_the_same_background() -> None:
    frames = _background(CFG, STILL, torch.arange(3) / 10)
    assert torch.equal(frames[0], frames[2])
    assert motion_speed(CFG, STILL) == 0


@pytest.mark.parametrize(
    ("way", "light"),
    [
        ({"camera": "pan", "pan": (-0.1, 0.0)}, (1, 0)),  # the camera goes right, so what it sees goes left
        ({"camera": "pan", "pan": (0.1, 0.0)}, (-1, 0)),
        ({"camera": "turn", "turn": 0.2}, (0, 1)),
        ({"camera": "zoom", "zoom": 0.2}, (0, 0)),
        ({}, (0, 0)),
    ],
    ids=str,
)
def test_the_picture_is_lit_from_where_the_camera_goes(
    way: dict[str, str | float | tuple[float, float]], light: tuple[int, int]
) -> None:
    lit = dataclasses.replace(STILL, **way)  # type: ignore[arg-type]
    start = torch.zeros(1)
    change = _background(CFG, lit, start) / _background(CFG, STILL, start)
    rise_down = (change[..., -1, :] - change[..., 0, :]).median().item() / (2 * LIGHT)
    rise_right = (change[..., -1] - change[..., 0]).median().item() / (2 * LIGHT)
    assert (round(rise_right), round(rise_down)) == light


def test_objects_count_by_the_area_that_they_cover() -> None:
    shape = Shape("disc", "red", 0.2, (0.5, 0.5), (0.3, 0.4), 0.0, 0.0)
    share = math.pi * 0.2**2 / (48 / 32)
    assert motion_speed(CFG, dataclasses.replace(STILL, shapes=(shape,))) == pytest.approx(share * 0.5)
    moving = dataclasses.replace(STILL, pan=(0.1, 0.0), shapes=(shape,))
    assert motion_speed(CFG, moving) == pytest.approx(share * 0.5 + (1 - share) * 0.1)


def test_an_object_moves_by_its_velocity() -> None:
    cfg = ToyConfig(width=96, height=96, frames=2, objects=(1, 1))
    seeds = ((seed, draw_scene(cfg, np.random.default_rng(seed))) for seed in range(1000))
    seed = next(seed for seed, scene in seeds if scene.camera == "still" and scene.shapes[0].kind == "disc")
    clip = render_clip(cfg, seed)
    shape, times = clip.scene.shapes[0], torch.arange(2) / clip.scene.fps
    changed = (clip.frames[1] - clip.frames[0]).abs().sum(0) > 0.05
    rows, columns = torch.nonzero(changed, as_tuple=True)
    centre_x = bounce(shape.position[0] + shape.velocity[0] * times, shape.radius, 1 - shape.radius) * 96
    centre_y = bounce(shape.position[1] + shape.velocity[1] * times, shape.radius, 1 - shape.radius) * 96
    reach = shape.radius * 96 + 1.5
    assert columns.min() >= centre_x.min() - reach and columns.max() <= centre_x.max() + reach
    assert rows.min() >= centre_y.min() - reach and rows.max() <= centre_y.max() + reach


def test_what_bounces_stays_inside_and_keeps_its_speed() -> None:
    times = torch.linspace(0, 40, 40_001, dtype=torch.float64)
    positions = bounce(0.5 + 0.7 * times, 0.2, 1.3)
    assert positions.min() >= 0.2 and positions.max() <= 1.3
    assert positions.min() < 0.21 and positions.max() > 1.29
    speeds = positions.diff().abs() / 0.001
    assert speeds.max() < 0.7 + 1e-6 and speeds.median() == pytest.approx(0.7)
    assert bounce(torch.tensor([0.5, 0.1, 1.4]), 0.2, 1.3).tolist() == pytest.approx([0.5, 0.3, 1.2])


def test_textures_are_squares_in_range_and_differ() -> None:
    pictures = [texture(seed, 32) for seed in range(12)]
    for picture in pictures:
        assert picture.shape == (3, 32, 32) and picture.min() >= 0 and picture.max() <= 1 and picture.std() > 0.01
    assert not torch.equal(pictures[0], pictures[1])
    assert torch.equal(texture(3, 32), pictures[3])

"""What the camera does, from fields of flow: one shift, zoom and roll a field, and one word a clip."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Complex, Float

CameraClass = Literal[
    "static",
    "object",  # the camera stands, and something moves
    "pan left",
    "pan right",
    "tilt up",
    "tilt down",
    "zoom in",
    "zoom out",
    "roll",
    "shake",
]

ROUNDS = 5  # of weighted least squares; fields are smooth, and settle in fewer
FLAT_WEIGHT = 0.02  # beside 1 of what is textured
LEAST_SEEN, ENOUGH_SEEN = 0.04, 0.12  # shares of the picture with texture
LEAST_SPREAD = 0.002  # shorter sides: the flow is never more exact
# Speeds in shorter sides a second: below, the camera stands, and nothing moves before it.
CAMERA_SPEED, OBJECT_SPEED = 0.012, 0.008
OBJECT_SHARE = 1.0  # a camera that moves less than so much of what the rest does is none
STEADY = 0.4  # the share of the path that a pan or a zoom leads on; less is a shaking hand


@dataclasses.dataclass(frozen=True, slots=True)
class CameraMotion:
    """How picture content moves, one row a field; lengths in shorter sides, right and down."""

    shift: Complex[np.ndarray, " n"]
    growth: Complex[np.ndarray, " n"]  # natural logarithm of the zoom, and i times the turn, clockwise, in radians
    rest: Float[np.ndarray, " n"]  # mean length of what neither explains
    length: Float[np.ndarray, " n"]  # mean length of all motion; flat areas follow the camera


def fit_cameras(
    fields: Complex[np.ndarray, "n h w"], texture: Float[np.ndarray, "n h w"], aspect: float
) -> CameraMotion:
    """The similarity that most of each field follows: `field = shift + growth z`, z from the middle of the picture.

    Least squares with Cauchy's weights, so that what moves by itself counts little, and what is flat not at all.
    """
    everywhere = _places(fields.shape[1:], aspect)
    # Not the border: flow there is smoothed with nothing on the other side, which flattens zooms and rolls.
    inner, seen_by = (each[:, 1:-1, 1:-1].reshape(len(fields), -1) for each in (fields, texture))
    shift, growth = _fitted(inner, seen_by, everywhere)
    camera = shift[:, None] + growth[:, None] * everywhere
    # Where little of the picture can be seen to move, the rest rather stands.
    seen = texture.mean((1, 2), keepdims=True)
    trust = np.clip((seen - LEAST_SEEN) / (ENOUGH_SEEN - LEAST_SEEN), 0, 1) * (1 - texture)
    whole = fields + trust * (camera - fields)
    return CameraMotion(shift[:, 0], growth[:, 0], np.abs(whole - camera).mean((1, 2)), np.abs(whole).mean((1, 2)))


def _fitted(
    fields: Complex[np.ndarray, "n c"], texture: Float[np.ndarray, "n c"], everywhere: Complex[np.ndarray, "h w"]
) -> tuple[Complex[np.ndarray, "n 1"], Complex[np.ndarray, "n 1"]]:
    places = everywhere[1:-1, 1:-1].ravel()
    flat = fields.astype(np.complex128)
    visible = texture.astype(np.float64) + FLAT_WEIGHT
    weight = visible
    shift = growth = np.zeros((len(flat), 1), np.complex128)
    for _ in range(ROUNDS):
        total = weight.sum(1, keepdims=True)
        centre = (weight * places).sum(1, keepdims=True) / total
        mean = (weight * flat).sum(1, keepdims=True) / total
        away = places - centre
        inertia = (weight * np.abs(away) ** 2).sum(1, keepdims=True)
        growth = (weight * np.conj(away) * (flat - mean)).sum(1, keepdims=True) / inertia
        shift = mean - growth * centre
        left = np.abs(flat - shift - growth * places)
        spread = np.median(left, axis=1, keepdims=True) + LEAST_SPREAD
        weight = visible / (1 + (left / spread) ** 2)
    return shift, growth


def _places(shape: tuple[int, ...], aspect: float) -> Complex[np.ndarray, "h w"]:
    height, width = shape
    across = (np.arange(width) + 0.5) / width - 0.5
    down = (np.arange(height) + 0.5) / height - 0.5
    return across[None] * max(aspect, 1) + 1j * down[:, None] * max(1 / aspect, 1)


def camera_class(motion: CameraMotion, aspect: float) -> CameraClass:
    """One word for a clip whose fields are a second long each, in the order of time.

    Directions are the camera's own: content that goes right is a pan left. A zoom and a roll count by the mean speed
    that they give the picture.
    """
    reach = float(np.abs(_places((7, 12), aspect)).mean())
    paths = {
        "pan": np.real(motion.shift),
        "tilt": np.imag(motion.shift),
        "zoom": np.real(motion.growth) * reach,
        "roll": np.imag(motion.growth) * reach,
    }
    # Medians: a thing that passes the whole picture is no camera.
    speeds = {name: float(np.median(np.abs(path))) for name, path in paths.items()}
    kind = max(speeds, key=lambda name: speeds[name])
    rest = float(np.median(motion.rest))
    if speeds[kind] < max(CAMERA_SPEED, OBJECT_SHARE * rest):
        return "object" if rest >= OBJECT_SPEED else "static"
    net = float(paths[kind].mean())
    if abs(net) < STEADY * float(np.abs(paths[kind]).mean()):
        return "shake"
    return _word(kind, net > 0)


def _word(kind: str, is_positive: bool) -> CameraClass:
    match kind:
        case "pan":
            return "pan left" if is_positive else "pan right"
        case "tilt":
            return "tilt up" if is_positive else "tilt down"
        case "zoom":
            return "zoom in" if is_positive else "zoom out"
    return "roll"

"""Which clips are the same footage again: re-encoded, scaled, cropped a little, at another rate, with a logo.

Every clip has a fingerprint: tiny grey pictures of it, evenly spaced in time. Fingerprints whose coarse pictures agree
are compared closely, over small crops, with the worst parts of the picture left out (a logo) and brightness matched.
What does not move must look alike; what moves must move alike, so that two pieces of one still scene stay two clips.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float, Int, UInt8
from pydantic import Field

from ..config import config
from ..errors import UsageError
from ..evaluation.opencv import cv2
from .records import Number
from .scorer import Look

FRAMES, HEIGHT, WIDTH = 12, 18, 32
SOFT_LEVELS = 6.0  # steps of brightness of this many grey levels count half
BLOCK = 2048  # fingerprints that are compared at once
CROPS = (0.0, 0.025, 0.05, 0.075)  # of each side together, in shares of the picture
PLACES = (0.0, 0.5, 1.0)  # where a crop lies: at one end, in the middle, at the other
KEPT_PARTS = 0.75  # the share of the picture's parts that count: a logo hides some
PARTS = (6, 8)  # rows and columns of parts
SMOOTHING_PX = 1.4  # of the tiny pictures
LEAST_MOTION = 0.1  # agreement of the parts' motion that is worth a close look
STILL_PARTS = 1.0  # deviation of the parts over time, in grey levels, below which there is no motion to compare
MOTION_LEVELS = 2.0  # deviation over time, in grey levels, from which motion must agree: less is noise of encoders


@config
class DuplicateConfig:
    """How alike clips must be to count as one."""

    coarse: Annotated[float, Field(description="Agreement of coarse pictures to look closer.", ge=-1, le=1)] = 0.45
    picture: Annotated[float, Field(description="Agreement of what stands still.", ge=-1, le=1)] = 0.8
    motion: Annotated[float, Field(description="Agreement of what moves.", ge=-1, le=1)] = 0.78
    embedding: Annotated[
        float | None, Field(description="Cosine of two embeddings that makes a duplicate by itself; none asks none.")
    ] = None


class Fingerprint:
    """Column `print.pictures`: the fingerprint, as text."""

    name, version, frames = "print", "1", FRAMES

    def score(self, look: Look) -> Mapping[str, Number | tuple[float, ...]]:
        return {"print.pictures": base64.b64encode(fingerprint(look.frames).tobytes()).decode()}


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A clip as the search for duplicates sees it."""

    id: str
    pixels: int
    bytes: int
    pictures: str
    embedding: tuple[float, ...] | None = None


def fingerprint(frames: UInt8[np.ndarray, "k h w 3"]) -> UInt8[np.ndarray, "k2 h2 w2"]:
    """Tiny grey pictures of FRAMES frames, evenly spaced."""
    chosen = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    grey = (cv2.cvtColor(frames[i], cv2.COLOR_RGB2GRAY) for i in chosen)
    return np.stack([cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for picture in grey])


def duplicates(clips: Sequence[Candidate], cfg: DuplicateConfig | None = None) -> dict[str, str]:
    """The id of each clip that is a duplicate, and of the one that is kept in its place.

    Clips that are alike, directly or through others, are one group; the one of most pixels, then most bytes, then of
    the first id is kept. The order of `clips` changes nothing.
    """
    cfg = cfg or DuplicateConfig()
    clips = sorted(clips, key=lambda clip: (-clip.pixels, -clip.bytes, clip.id))
    group = list(range(len(clips)))
    for first, second in _alike(clips, cfg):
        low, high = sorted((_root(group, first), _root(group, second)))
        group[high] = low
    roots = [_root(group, i) for i in range(len(clips))]
    return {clips[i].id: clips[root].id for i, root in enumerate(roots) if root != i}


def agreement(first: UInt8[np.ndarray, "k h w"], second: UInt8[np.ndarray, "k h w"]) -> tuple[float, float]:
    """How well two fingerprints agree, at the best of the small crops of either: what stands still, and what moves.

    Both are correlations, in [-1, 1]; 1 for motion where neither moves.
    """
    best = (-1.0, -1.0)
    whole = (_smooth(first), _smooth(second))
    for rows, columns in _crops():
        for a, b in ((whole[0], _cropped(whole[1], rows, columns)), (_cropped(whole[0], rows, columns), whole[1])):
            best = max(best, _agreement(a, b), key=lambda pair: pair[0] + pair[1])
    return best


def _alike(clips: Sequence[Candidate], cfg: DuplicateConfig) -> Iterator[tuple[int, int]]:
    if not clips:
        return
    prints = np.stack([_decoded(clip) for clip in clips])
    for i, j in _plausible(prints, _near(_coarse(prints), cfg.coarse)):
        picture, motion = agreement(prints[i], prints[j])
        if picture >= cfg.picture and motion >= cfg.motion:
            yield i, j
    embedded = [i for i, clip in enumerate(clips) if clip.embedding]
    if cfg.embedding is not None and embedded:
        vectors = np.array([clips[i].embedding for i in embedded], np.float32)
        for found in _near(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), cfg.embedding):
            yield from ((embedded[i], embedded[j]) for i, j in found.tolist())


def _decoded(clip: Candidate) -> UInt8[np.ndarray, "k h w"]:
    data = base64.b64decode(clip.pictures)
    if len(data) != FRAMES * HEIGHT * WIDTH:
        raise UsageError(f"the fingerprint of {clip.id} has {len(data)} bytes; expected {FRAMES * HEIGHT * WIDTH}.")
    return np.frombuffer(data, np.uint8).reshape(FRAMES, HEIGHT, WIDTH)


def _coarse(prints: UInt8[np.ndarray, "n k h w"]) -> Float[np.ndarray, "n d"]:
    """Which way brightness rises between neighbouring parts of each clip's mean picture, as vectors of length 1.

    Every step counts about alike, however high it is, so that a logo changes few of the numbers.
    """
    parts = _parts(prints).mean(1)
    steps = [np.diff(parts, axis=axis).reshape(len(parts), -1) for axis in (1, 2)]
    rises = np.concatenate(steps, axis=1)
    rises = rises / (np.abs(rises) + SOFT_LEVELS)
    return rises / np.maximum(np.linalg.norm(rises, axis=1, keepdims=True), 1e-6)


def _near(vectors: Float[np.ndarray, "n d"], least: float) -> Iterator[Int[np.ndarray, "m 2"]]:
    """Pairs, the first before the second, whose cosine is at least `least`: exact, by products of blocks."""
    for first in range(0, len(vectors), BLOCK):
        for second in range(first, len(vectors), BLOCK):
            alike = vectors[first : first + BLOCK] @ vectors[second : second + BLOCK].T >= least
            found = np.argwhere(np.triu(alike, 1) if first == second else alike)
            yield found + np.array([first, second])


def _plausible(
    prints: UInt8[np.ndarray, "n k h w"], near: Iterable[Int[np.ndarray, "m 2"]]
) -> Iterator[tuple[int, int]]:
    """Those pairs whose parts move alike, or both not at all: a cheap look that spares most of the close ones."""
    parts = _parts(prints).reshape(len(prints), FRAMES, -1)
    moved = (parts - parts.mean(1, keepdims=True)).reshape(len(prints), -1)
    lengths = np.linalg.norm(moved, axis=1)
    is_still = lengths < STILL_PARTS * np.sqrt(moved.shape[1])
    for pairs in near:
        for some in np.array_split(pairs, len(pairs) // BLOCK + 1):
            i, j = some.T
            agree = np.einsum("nd,nd->n", moved[i], moved[j]) >= LEAST_MOTION * lengths[i] * lengths[j]
            yield from map(tuple, some[agree | (is_still[i] & is_still[j])].tolist())


def _parts(prints: UInt8[np.ndarray, "n k h w"]) -> Float[np.ndarray, "n k p q"]:
    rows, columns = HEIGHT // PARTS[0], WIDTH // PARTS[1]
    return prints.reshape(*prints.shape[:2], PARTS[0], rows, PARTS[1], columns).mean((3, 5), dtype=np.float32)


def _crops() -> Iterator[tuple[slice, slice]]:
    """Shares of the height and of the width that a crop keeps, as slices of [0, 1]."""
    for crop in CROPS:
        places = itertools.product(PLACES, PLACES) if crop else [(0.0, 0.0)]
        for down, right in places:
            yield slice(crop * down, 1 - crop * (1 - down)), slice(crop * right, 1 - crop * (1 - right))


def _cropped(pictures: Float[np.ndarray, "k h w"], rows: slice, columns: slice) -> Float[np.ndarray, "k h w"]:
    """The pictures cropped and brought back to their size, by linear interpolation."""
    down, up = _interpolation(HEIGHT, rows), _interpolation(WIDTH, columns)
    return down @ pictures @ up.T


def _interpolation(length: int, part: slice) -> Float[np.ndarray, "length length"]:
    at = (part.start + (np.arange(length) + 0.5) / length * (part.stop - part.start)) * length - 0.5
    at = np.clip(at, 0, length - 1)
    low = np.minimum(at.astype(int), length - 2)
    weights = np.zeros((length, length), np.float32)
    weights[np.arange(length), low] = 1 - (at - low)
    weights[np.arange(length), low + 1] = at - low
    return weights


def _smooth(pictures: UInt8[np.ndarray, "k h w"]) -> Float[np.ndarray, "k h w"]:
    """Blurred, so that what lies a fraction of a pixel elsewhere still agrees."""
    return np.stack([cv2.GaussianBlur(picture.astype(np.float32), (0, 0), SMOOTHING_PX) for picture in pictures])


def _agreement(a: Float[np.ndarray, "k h w"], b: Float[np.ndarray, "k h w"]) -> tuple[float, float]:
    still_a, still_b = a.mean(0), b.mean(0)
    moved_a, moved_b = a - still_a, b - still_b
    kept = _best_parts(still_a, still_b)
    picture = _correlation(still_a[kept], still_b[kept])
    if max(moved_a.std(), moved_b.std()) < MOTION_LEVELS:
        return picture, 1.0
    return picture, _correlation(moved_a[:, kept].ravel(), moved_b[:, kept].ravel())


def _best_parts(a: Float[np.ndarray, "h w"], b: Float[np.ndarray, "h w"]) -> np.ndarray:
    """Where the two agree best, once brightness and contrast are matched: KEPT_PARTS of the parts."""
    matched = (b - np.median(b)) * (np.abs(a - np.median(a)).mean() / max(np.abs(b - np.median(b)).mean(), 1e-3))
    apart = np.square(a - np.median(a) - matched)
    rows = np.arange(a.shape[0]) * PARTS[0] // a.shape[0]
    columns = np.arange(a.shape[1]) * PARTS[1] // a.shape[1]
    part: Int[np.ndarray, "h w"] = rows[:, None] * PARTS[1] + columns[None]
    error = np.bincount(part.ravel(), apart.ravel()) / np.bincount(part.ravel())
    good = np.argsort(error, kind="stable")[: round(KEPT_PARTS * len(error))]
    return np.isin(part, good)


def _correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 1e-6 else float(abs(a).max() < 1 and abs(b).max() < 1)


def _root(group: list[int], i: int) -> int:
    while group[i] != i:
        group[i] = group[group[i]]
        i = group[i]
    return i

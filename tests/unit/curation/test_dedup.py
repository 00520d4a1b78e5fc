from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from stillmotion.curation.dedup import (
    FRAMES,
    Candidate,
    DuplicateConfig,
    Fingerprint,
    agreement,
    duplicates,
    fingerprint,
)
from stillmotion.errors import UsageError
from stillmotion.training.toys import ToyConfig, render_clip

from .looks import look_at

TOYS = ToyConfig(width=192, height=120, frames=24, leaves=0.4)
CLIPS = 12


def toy(seed: int) -> np.ndarray:
    frames = render_clip(TOYS, seed).frames.permute(0, 2, 3, 1).numpy()
    return ((frames + 1) * 127.5).round().astype(np.uint8)


@pytest.fixture(scope="module")
def toys() -> list[np.ndarray]:
    return [toy(700_000 + seed) for seed in range(CLIPS)]


def scaled(frames: np.ndarray, factor: float) -> np.ndarray:
    return np.stack([cv2.resize(f, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) for f in frames])


def cropped(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1:3]
    return frames[:, : round(height * 0.95), round(width * 0.05) :]


def with_logo(frames: np.ndarray) -> np.ndarray:
    frames = frames.copy()
    frames[:, 5:22, 150:185] = (250, 20, 20)
    return frames


def brighter(frames: np.ndarray) -> np.ndarray:
    return np.clip(frames * 1.15 + 8, 0, 255).astype(np.uint8)


def candidate(name: str, frames: np.ndarray, **others: object) -> Candidate:
    print_ = Fingerprint().score(look_at(frames))["print.pictures"]
    assert isinstance(print_, str)
    values = {"pixels": frames.shape[1] * frames.shape[2], "bytes": len(frames)} | others
    return Candidate(id=name, pictures=print_, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [lambda f: scaled(f, 0.5), cropped, with_logo, brighter, lambda f: f[::2], lambda f: with_logo(scaled(f, 0.75))],
    ids=["half", "crop", "logo", "brighter", "half the rate", "logo on a smaller one"],
)
def test_the_same_footage_again_is_found(toys: list[np.ndarray], change: Callable[[np.ndarray], np.ndarray]) -> None:
    originals = [candidate(f"a{i}", frames, pixels=10**6) for i, frames in enumerate(toys)]
    copies = [candidate(f"b{i}", change(frames)) for i, frames in enumerate(toys)]
    assert duplicates(originals + copies) == {f"b{i}": f"a{i}" for i in range(CLIPS)}


def test_other_footage_is_not(toys: list[np.ndarray]) -> None:
    assert duplicates([candidate(str(i), frames) for i, frames in enumerate(toys)]) == {}


def test_two_pieces_of_one_still_scene_are_two_clips_when_something_else_moves(toys: list[np.ndarray]) -> None:
    still = np.repeat(toys[0][:1], 24, axis=0)
    left, right = still.copy(), still.copy()
    for t in range(24):
        left[t, 40:70, 10 + 6 * t : 40 + 6 * t] = (255, 255, 0)
        right[t, 40:70, 150 - 6 * t : 180 - 6 * t] = (255, 255, 0)
    assert duplicates([candidate("left", left), candidate("right", right)]) == {}
    assert duplicates([candidate("left", left), candidate("again", left)]) == {"left": "again"}


def test_still_clips_are_compared_by_their_picture_alone(toys: list[np.ndarray]) -> None:
    noise = np.random.default_rng(0).normal(0, 2, (2, *toys[0].shape))
    stills = [np.clip(toys[0][:1] + part, 0, 255).astype(np.uint8) for part in noise]
    picture, motion = agreement(fingerprint(stills[0]), fingerprint(stills[1]))
    assert picture > 0.99 and motion == 1
    flat = [np.full_like(toys[0], value) for value in (0, 200)]
    assert all(np.isfinite(agreement(fingerprint(flat[0]), fingerprint(frames))).all() for frames in (flat[1], toys[0]))


def test_the_largest_is_kept_then_the_heaviest_then_the_first_name_in_any_order(toys: list[np.ndarray]) -> None:
    small, large = scaled(toys[0], 0.5), toys[0]
    clips = [candidate("z", small), candidate("m", large, bytes=5), candidate("k", large, bytes=9)]
    clips += [candidate("j", large, bytes=9), candidate("other", toys[1])]
    for order in itertools.islice(itertools.permutations(clips), 0, 120, 17):
        assert duplicates(list(order)) == {"z": "j", "m": "j", "k": "j"}


def test_embeddings_find_what_pictures_do_not(toys: list[np.ndarray]) -> None:
    one, other = np.eye(4)[0], np.array([0.96, 0.28, 0, 0])
    clips = [
        candidate(name, toys[i], embedding=tuple(vector))
        for i, (name, vector) in enumerate((("a", one), ("b", other), ("c", np.eye(4)[2])))
    ]
    assert duplicates(clips) == {}
    assert duplicates(clips, DuplicateConfig(embedding=0.95)) == {"b": "a"}
    assert duplicates(clips, DuplicateConfig(embedding=0.97)) == {}
    # One that could not be looked at changes nothing for the others.
    clips.insert(0, candidate("0", toys[3]))
    assert duplicates(clips, DuplicateConfig(embedding=0.95)) == {"b": "a"}


def test_a_short_clip_has_a_fingerprint_too_and_a_damaged_one_is_refused(toys: list[np.ndarray]) -> None:
    assert fingerprint(toys[0][:1]).shape[0] == FRAMES
    with pytest.raises(UsageError, match="the fingerprint of a has 3 bytes"):
        duplicates([Candidate("a", 1, 1, "AAAA")])
    assert duplicates([]) == {}

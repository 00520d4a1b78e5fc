"""Times of several functions, taken in turns; distances between what they return."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

Timed = Callable[[], object]


@dataclasses.dataclass(frozen=True, slots=True)
class Turns:
    """Seconds of each function, turn by turn."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """The middle of one function's times."""
        return statistics.median(self.seconds[name])

    def lowest_ratio(self, ours: str, peer: str) -> float:
        """The worst turn for us: the smallest of the peer's time over ours."""
        return min(b / a for a, b in zip(self.seconds[ours], self.seconds[peer], strict=True))


def in_turns(functions: Mapping[str, Timed], turns: int, device: str, warm_ups: int = 1) -> Turns:
    """Run every function once a turn, the order reversed in every other turn; the first `warm_ups` turns do not count.

    On an accelerator each time ends when the device has finished.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for turn in range(-warm_ups, turns):
        for name in names if turn % 2 == 0 else names[::-1]:
            elapsed = seconds_of(functions[name], device)
            if turn >= 0:
                seconds[name].append(elapsed)
    return Turns(seconds)


def seconds_of(function: Timed, device: str) -> float:
    """How long one call takes until its result is there."""
    finish(device)
    start = time.perf_counter()
    function()
    finish(device)
    return time.perf_counter() - start


def finish(device: str) -> None:
    """Wait for what the device still has to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def distance(ours: Tensor, peer: Tensor) -> float:
    """The largest difference, in standard deviations of the peer's values."""
    ours, peer = ours.double().cpu(), peer.double().cpu()
    assert ours.shape == peer.shape, f"{tuple(ours.shape)} against {tuple(peer.shape)}"
    return (ours - peer).abs().max().item() / peer.std().item()


def psnr(ours: np.ndarray, peer: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 videos in dB; infinite where they are equal."""
    assert ours.shape == peer.shape and ours.dtype == peer.dtype == np.uint8
    error = np.mean((ours.astype(np.float64) - peer.astype(np.float64)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)

"""What changes around every frame, in some seventy numbers, from thumbnails alone.

A frame is compared with those before and after it at several distances, so that one pass sees fast and slow changes.
All comparisons are of whole blocks of frames at once; nothing here loops over pixels.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from ..evaluation.opencv import cv2
from .thumbnails import CHROMA_BYTES, CHROMA_PX, LUMA_BYTES, LUMA_PX

HALO = 28  # frames on each side that the features of a frame look at
# Pairs that stand on both sides of the boundary before a frame: the k-th frame before it, and the (k-1)-th after. Slow
# changes are looked at every second or fourth frame only: (k, every so many frames).
STRADDLES = ((1, 1), (2, 1), (3, 1), (5, 2), (9, 2), (17, 4))
# Distances at which a frame is compared with the mixture of the one before and the one after, and how often.
REACHES = ((3, 1), (6, 2), (12, 4), (24, 4))
HISTOGRAMS = ((1, 1), (3, 1), (9, 2), (17, 4))
PROFILES = ((1, 1), (3, 2))
BINS = 16
SHIFTS = 4  # largest shift of the profiles, in cells
PIECE = 64  # frames, a multiple of every step above
TINY = 1.0  # levels of 255: differences below are noise
CELLS = 3 * CHROMA_BYTES

Block = Float[np.ndarray, "n ..."]


def features(rows: UInt8[np.ndarray, "n bytes"]) -> Float[np.ndarray, "m f"]:
    """The features of frames HALO to n - HALO - 1 of so many thumbnails, as logarithms and ratios."""
    # In small pieces, which stay in the processor's cache.
    count = len(rows) - 2 * HALO
    pieces = [_piece(rows[start : min(start + PIECE, count) + 2 * HALO]) for start in range(0, count, PIECE)]
    return np.concatenate(pieces)


def _piece(rows: UInt8[np.ndarray, "n bytes"]) -> Float[np.ndarray, "m f"]:
    fine = rows[:, :LUMA_BYTES].reshape(-1, LUMA_PX[1], LUMA_PX[0])
    coarse = np.empty((len(rows), 3, CHROMA_PX[1], CHROMA_PX[0]), np.float32)
    coarse[:, 0] = _halved(fine)
    coarse[:, 1:] = rows[:, LUMA_BYTES:].reshape(-1, 2, CHROMA_PX[1], CHROMA_PX[0])
    groups = [_levels(coarse), _steps(rows[HALO - 1 : len(rows) - HALO, :LUMA_BYTES])]
    groups += [_straddle(coarse, *each) for each in STRADDLES]
    total = _cumulative(coarse[:, 0])
    groups += [_histogram(total, *each) for each in HISTOGRAMS]
    for profile in (coarse[:, 0].mean(axis=1), coarse[:, 0].mean(axis=2)):
        groups += [_shift(profile, *each) for each in PROFILES]
    groups += [_mixture(coarse, *each) for each in REACHES]
    return np.concatenate(groups, axis=1)


def _at(block: Block, shift: int, step: int = 1) -> Block:
    """The middle one of every `step` frames that have a halo, each replaced by the one `shift` later."""
    place = shift + step // 2
    return block[HALO + place : len(block) - HALO + place : step]


def _spread(columns: list[np.ndarray], block: Block, step: int) -> Block:
    """Columns of every `step`-th frame as columns of each."""
    found = np.stack(columns, 1).astype(np.float32, copy=False)
    return found if step == 1 else np.repeat(found, step, axis=0)[: len(block) - 2 * HALO]


def _halved(fine: UInt8[np.ndarray, "n 27 48"]) -> Block:
    """27 rows to 14 (the last stands alone), 48 columns to 24."""
    pairs = fine[:, :, 0::2].astype(np.uint16) + fine[:, :, 1::2]
    rows = np.empty((len(fine), CHROMA_PX[1], CHROMA_PX[0]), np.float32)
    np.multiply(pairs[:, 0:-1:2] + pairs[:, 1::2], np.float32(0.25), out=rows[:, :-1])
    np.multiply(pairs[:, -1], np.float32(0.5), out=rows[:, -1])
    return rows


def _mean(block: Block) -> Float[np.ndarray, " n"]:
    return block.reshape(len(block), -1).mean(axis=1)


def _deviation(luma: Block) -> Float[np.ndarray, " n"]:
    flat = luma.reshape(len(luma), -1)
    mean = flat.mean(axis=1)
    return np.sqrt(np.maximum(_dot(flat, flat) / flat.shape[1] - mean * mean, 0))


def _dot(one: Block, other: Block) -> Float[np.ndarray, " n"]:
    return np.einsum("nc,nc->n", one.reshape(len(one), -1), other.reshape(len(other), -1))


def _levels(coarse: Block) -> Block:
    """Brightness, contrast, colour and distance from one flat colour."""
    middle = _at(coarse, 0)
    luma = middle[:, 0].reshape(len(middle), -1)
    colour = _mean(np.abs(middle[:, 1:] - 128))
    spread = luma.max(axis=1) - luma.min(axis=1)
    return _spread([luma.mean(axis=1) / 64, np.log1p(_deviation(luma)), np.log1p(colour), np.log1p(spread)], coarse, 1)


def _steps(rows: UInt8[np.ndarray, "n c"]) -> Block:
    """The step from the frame before, cell by cell: how large, how concentrated, how much of the picture."""
    step = cv2.absdiff(rows[1:], rows[:-1])
    share = np.count_nonzero(step > 12, axis=1) / LUMA_BYTES
    peak = step.max(axis=1)
    step = step.astype(np.float32)
    mean = step.mean(axis=1)
    root = np.sqrt(_dot(step, step) / LUMA_BYTES)
    return np.stack([np.log1p(mean), root / (mean + TINY), share, np.log1p(peak)], 1).astype(np.float32)


def _straddle(coarse: Block, distance: int, step: int) -> Block:
    """Differences across the boundary: plain, in colour, and beyond what a move of one cell explains."""
    before, after = _at(coarse, -distance, step), _at(coarse, distance - 1, step)
    change = np.abs(after - before)
    old, new = before[:, 0], after[:, 0]
    inner = new[:, 1:-1, 1:-1]
    across_high = np.maximum(np.maximum(old[:, :, :-2], old[:, :, 1:-1]), old[:, :, 2:])
    across_low = np.minimum(np.minimum(old[:, :, :-2], old[:, :, 1:-1]), old[:, :, 2:])
    high = np.maximum(np.maximum(across_high[:, :-2], across_high[:, 1:-1]), across_high[:, 2:])
    low = np.minimum(np.minimum(across_low[:, :-2], across_low[:, 1:-1]), across_low[:, 2:])
    beyond = np.abs(inner - np.minimum(np.maximum(inner, low), high))
    columns = [np.log1p(_mean(change[:, 0])), np.log1p(_mean(change[:, 1:])), np.log1p(_mean(beyond))]
    return _spread(columns, coarse, step)


def _cumulative(luma: Block) -> Float[np.ndarray, "n bins"]:
    """The cumulative histogram of brightness of every frame."""
    count = len(luma)
    cells = luma.reshape(count, -1).astype(np.int32) >> 4
    cells += np.arange(count, dtype=np.int32)[:, None] * BINS
    histogram = np.bincount(cells.ravel(), minlength=count * BINS).reshape(count, BINS)
    return histogram.cumsum(axis=1, dtype=np.float32) / CHROMA_BYTES


def _histogram(total: Float[np.ndarray, "n bins"], distance: int, step: int) -> Block:
    """The distance between cumulative histograms across the boundary, which motion leaves alone."""
    change = np.abs(_at(total, distance - 1, step) - _at(total, -distance, step))
    return _spread([np.sqrt(change.sum(axis=1))], total, step)


def _shift(profile: Float[np.ndarray, "n c"], distance: int, step: int) -> Block:
    """How well the best shift of the whole picture explains a change, along rows or columns, and how far it is."""
    later = _at(profile, distance - 1, step)[:, SHIFTS : profile.shape[1] - SHIFTS]
    windows = np.lib.stride_tricks.sliding_window_view(_at(profile, -distance, step), later.shape[1], axis=1)
    costs = np.abs(windows - later[:, None]).mean(axis=2)
    best = costs.min(axis=1)
    moved = np.abs(costs.argmin(axis=1) - SHIFTS) / SHIFTS
    return _spread([np.log1p(best), best / (costs[:, SHIFTS] + TINY), moved], profile, step)


def _mixture(coarse: Block, reach: int, step: int) -> Block:
    """Whether a frame is a mixture of the one `reach` before and the one after, everywhere alike or place by place."""
    before, now, after = (_at(coarse, shift, step) for shift in (-reach, 0, reach))
    to_before, to_after = now - before, after - now
    whole = to_before + to_after
    near_before, near_after, change = np.abs(to_before), np.abs(to_after), np.abs(whole)
    scale = _mean(change) + TINY
    # A dissolve is linear: twice the middle is the sum of the ends.
    bend = _mean(np.abs(to_before - to_after)) / scale
    either = _mean(np.minimum(near_before, near_after)) / scale
    excess = (_mean(near_before) + _mean(near_after)) / scale - 1
    square, product = _dot(whole, whole), _dot(to_before, whole)
    along = product / (square + TINY)
    residual = np.sqrt(np.maximum(_dot(to_before, to_before) - along * product, 0) / CELLS) / scale
    # A wipe has come to some places and not to others: the share by which each place has changed differs.
    weight, share = change.sum(axis=1), (near_before - near_after).sum(axis=1)
    columns = share.sum(axis=1) / (weight.sum(axis=1) + CHROMA_PX[1] * TINY)
    lines = share.sum(axis=2) / (weight.sum(axis=2) + CHROMA_PX[0] * TINY)
    extent = _mean(np.abs(share)) / (_mean(weight) + TINY)
    spreads = [_deviation(picture[:, 0]) for picture in (before, now, after)]
    dip = np.minimum(2 * spreads[1] / (spreads[0] + spreads[2] + TINY), 3)
    alike = _correlation(before[:, 0], after[:, 0], spreads[0], spreads[2])
    fits = [np.log1p(scale), bend, either, excess, np.clip(along, -1, 2), residual]
    return _spread([*fits, columns.std(1), lines.std(1), extent, dip, alike], coarse, step)


def _correlation(one: Block, other: Block, one_spread: np.ndarray, other_spread: np.ndarray) -> np.ndarray:
    product = _dot(one, other) / CHROMA_BYTES - _mean(one) * _mean(other)
    return product / (one_spread * other_spread + TINY)

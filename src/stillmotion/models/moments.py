"""Mean and variance of each channel, pooled exactly, and group normalisation from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import operations
from ..nn.products import is_own
from ..nn.regions import are_in_force, region


@dataclasses.dataclass(frozen=True, slots=True)
class Moments:
    """Mean and biased variance of each channel, a row for each set of pixels that they were taken over."""

    mean: Float[Tensor, "k c"]
    variance: Float[Tensor, "k c"]

    def together(self) -> Moments:
        """One row over all rows, each of which counts the same."""
        mean = self.mean.mean(0, keepdim=True)
        spread = self.variance + (self.mean - mean).square()
        return Moments(mean, spread.mean(0, keepdim=True))


def pooled(sets: Sequence[Moments], pixels: Sequence[int]) -> Moments:
    """Row by row, the statistics of several sets of so many pixels together.

    Source: Chan 1979 (Updating formulae and a pairwise algorithm for computing sample variances).
    """
    means, variances = (torch.stack(each) for each in ([m.mean for m in sets], [m.variance for m in sets]))
    share = torch.tensor(pixels, dtype=torch.float32)[:, None, None].to(means) / sum(pixels)
    mean = (share * means).sum(0)
    return Moments(mean, (share * (variances + (means - mean).square())).sum(0))


def moments_of(x: Float[Tensor, "pixels c"]) -> Moments:
    """One row: the statistics of all pixels, in at least float32."""
    if x.device.type != "cpu" or are_in_force():
        variance, mean = _spread_and_mean(x)
        return Moments(mean, variance)
    if is_own(x):
        return Moments(*operations.moments(x[None, None]))
    # The statistics of a batch norm: the one reduction of torch that is fast over contiguous channels. It takes two
    # passes, so that a large mean costs no digits, and float32 totals make it sum bfloat16 in float32.
    total = torch.zeros(2, x.shape[1], dtype=widest(x))
    mean, variance = torch.batch_norm_update_stats(x.t()[None, :, None], total[0], total[1], 0.0)
    return Moments(mean[None], variance[None])


def joined(rows: Sequence[Moments]) -> Moments:
    """The rows of several, in one."""
    return Moments(torch.cat([each.mean for each in rows]), torch.cat([each.variance for each in rows]))


def affine(norm: nn.GroupNorm, moments: Moments) -> tuple[Float[Tensor, "k c"], Float[Tensor, "k c"]]:
    """Scale and shift of each channel that group normalisation comes down to, given what it is to normalise by."""
    mean, variance = (each.unflatten(1, (norm.num_groups, -1)) for each in (moments.mean, moments.variance))
    centre = mean.mean(2, keepdim=True)
    spread = (variance + (mean - centre).square()).mean(2, keepdim=True)
    scale = norm.weight.to(mean).unflatten(0, (norm.num_groups, -1)) * (spread + norm.eps).rsqrt()
    shift = norm.bias.to(mean).unflatten(0, (norm.num_groups, -1)) - centre * scale
    return scale.flatten(1), shift.flatten(1)


def activated(
    x: Float[Tensor, "n h w c"],
    scale: Float[Tensor, "k c"],
    shift: Float[Tensor, "k c"],
    target: Float[Tensor, "n h w c"],
) -> None:
    """SiLU of the scaled and shifted frames, into `target`; a row of `scale` is one frame's, one alone that of all."""
    if are_in_force():
        _activate(x, scale, shift, target)
    elif is_own(x):
        operations.scaled(x, scale, shift, target)
    elif x.dtype == scale.dtype:
        moved = torch.addcmul(shift[:, None, None], x, scale[:, None, None])
        torch.ops.aten.silu.out(moved, out=target)
    elif len(scale) == 1:
        torch.ops.aten.silu.out(_moved(x, scale[0], shift[0]), out=target)
    else:
        for each in zip(x.split(1), scale, shift, target.split(1), strict=True):
            torch.ops.aten.silu.out(_moved(*each[:3]), out=each[3])


def widest(x: Tensor) -> torch.dtype:
    """The precision of statistics: float32, and float64 for what is in float64."""
    return torch.promote_types(x.dtype, torch.float32)


@region()
def _spread_and_mean(x: Float[Tensor, "pixels c"]) -> tuple[Float[Tensor, "1 c"], Float[Tensor, "1 c"]]:
    return torch.var_mean(x.to(widest(x)), dim=0, correction=0, keepdim=True)


@region()
def _activate(x: Tensor, scale: Float[Tensor, "k c"], shift: Float[Tensor, "k c"], target: Tensor) -> None:
    target.copy_(F.silu(torch.addcmul(shift[:, None, None], x.to(scale.dtype), scale[:, None, None])))


def _moved(
    x: Float[Tensor, "n h w c"], scale: Float[Tensor, " c"], shift: Float[Tensor, " c"]
) -> Float[Tensor, "n h w c"]:
    """x * scale + shift of half precision with one rounding: a batch norm that knows its statistics computes so."""
    nothing, one = torch.zeros_like(scale), torch.ones_like(scale)
    moved = F.batch_norm(x.permute(0, 3, 1, 2), nothing, one, scale, shift, training=False, eps=0.0)
    return moved.permute(0, 2, 3, 1)

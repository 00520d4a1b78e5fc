"""Attention over tokens, the gated feed-forward, and the single-head attention of the autoencoder."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import operations
from .backends import attend_fastest
from .products import is_own
from .resnet import GROUPS

# CUDA's grids have no more blocks along the axis where torch puts rows. Source: pytorch issue 142228.
MAX_ROWS = 65_535
# torch on MPS holds all scores, and fails from 2^32 bytes on. Source: pytorch issue 149261.
MAX_MPS_SCORE_BYTES = 2**31


def attend(
    q: Float[Tensor, "rows h n d"], k: Float[Tensor, "rows h m d"], v: Float[Tensor, "rows h m d"]
) -> Float[Tensor, "rows h n d"]:
    """Scaled dot-product attention, in as many calls as the device's kernels need; the result is the same."""
    rows = MAX_ROWS
    if q.device.type == "mps":
        rows = max(1, MAX_MPS_SCORE_BYTES // (q.shape[1] * q.shape[2] * k.shape[2] * q.element_size()))
    # Measured kernels serve inference; training keeps the one that torch chooses, forwards and backwards.
    attend_some = attend_fastest if q.is_cuda and not torch.is_grad_enabled() else F.scaled_dot_product_attention
    if len(q) <= rows:
        return attend_some(q, k, v)
    parts = zip(q.split(rows), k.split(rows), v.split(rows), strict=True)
    return torch.cat([attend_some(*part) for part in parts])


def attend_within(qkv: Float[Tensor, "rows n e"], heads: int) -> Float[Tensor, "rows n d"]:
    """The same of queries, keys and values that lie side by side; for inference."""
    if is_own(qkv) and operations.attends(qkv.shape[2] // (3 * heads)):
        return operations.attend(qkv, heads)
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return attend(q, k, v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention of queries from `x` over keys and values from `context`, or from `x` itself."""

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width or width, width, bias=False)
        self.to_v = nn.Linear(context_width or width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(
        self, x: Float[Tensor, "*rows n d"], context: Float[Tensor, "*rows m e"] | None = None
    ) -> Float[Tensor, "*rows n d"]:
        source = x if context is None else context
        # Four axes exactly: torch's kernels that never hold all scores at once take no others.
        q, k, v = (
            tokens.reshape(-1, tokens.shape[-2], self.heads, tokens.shape[-1] // self.heads).transpose(1, 2)
            for tokens in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        return self.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2)).view(x.shape)

    def of_one_token(self, context: Float[Tensor, "*rows 1 e"]) -> Float[Tensor, "*rows 1 d"]:
        """The result for every query when there is one key: softmax over one key is 1, so queries do not matter."""
        return self.to_out[0](self.to_v(context))

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class GEGLU(nn.Module):
    """A linear map to twice the width, one half gating the other through GELU. Source: Shazeer 2020."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden_width)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... e"]:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back; `chunk_size` bounds the memory of the wide middle.

    With `chunk_size` set, the input is processed in slices of that many entries of axis `chunk_axis` (0: rows,
    1: tokens); the last slice may be shorter. With `slices` set, the rows are cut into so many instead. The result does
    not change.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])
        self.chunk_size: int | None = None
        self.chunk_axis = 0
        self.slices: int | None = None

    def forward(self, x: Float[Tensor, "*rows n d"]) -> Float[Tensor, "*rows n d"]:
        if self.chunk_size is None and self.slices is None:
            return self._map(x)
        rows = x.flatten(0, -3)
        size, axis = self.chunk_size, self.chunk_axis
        if self.slices is not None:
            size, axis = -(-len(rows) // self.slices), 0
        assert size is not None
        return torch.cat([self._map(part) for part in rows.split(size, dim=axis)], dim=axis).reshape(x.shape)

    def _map(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class FrameAttention(nn.Module):
    """Single-head attention over the pixels of each frame, added to its input: the autoencoder's middle."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(GROUPS, channels, eps=eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        rows = x.flatten(0, 1)
        tokens = self.group_norm(rows).flatten(2).transpose(1, 2)
        q, k, v = (project(tokens)[:, None] for project in (self.to_q, self.to_k, self.to_v))
        mixed = self.to_out[0](attend(q, k, v)[:, 0])
        return x + mixed.transpose(1, 2).unflatten(2, x.shape[-2:]).unflatten(0, x.shape[:2])

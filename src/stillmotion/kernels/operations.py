"""Convolutions, norms and attention of channels-last bfloat16 on a processor with AVX-512, summed in float32.

For inference: nothing here is differentiated. Results do not depend on the number of threads. On the meta device
everything gives results of the right shape, so that memory can be counted.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .library import library

# A vector of the processor, and the outputs of a panel of weights.
LANES, PANEL = 16, 64
MOST_TAPS = 9
MOST_HEAD_WIDTH = 64
_PLAIN, _ADDED, _GATED = 0, 1, 2  # what becomes of a sum
# What `convolve_in_sums` does along an axis.
Axis = Literal["alone", "paired", "doubled"]
_AXES: dict[Axis, int] = {"alone": 0, "paired": 1, "doubled": 2}


class Window(NamedTuple):
    """What an output of a convolution sees of an image.

    down, across: taps. stride: pixels from one output to the next. is_padded: images come with their margins, and lose
    them; else zeros are beyond their borders, as many on all sides.
    """

    down: int
    across: int
    stride: int = 1
    is_padded: bool = False

    @property
    def margins(self) -> tuple[int, int]:
        """Rows above and columns before an image that the first output's taps reach into."""
        return (0, 0) if self.is_padded else (self.down // 2, self.across // 2)

    def made_of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what becomes of an image."""
        above, before = self.margins
        down, across = height + 2 * above - self.down, width + 2 * before - self.across
        return down // self.stride + 1, across // self.stride + 1


# A product is a convolution of one tap.
POINT = Window(1, 1)


def are_here() -> bool:
    """Whether the library is built and runs on this processor."""
    return library() is not None


def serve(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether these functions are for tensors of this precision there, and run on this processor."""
    return dtype == torch.bfloat16 and device.type == "cpu" and are_here()


def takes(x: Tensor) -> bool:
    """Whether these functions are for a tensor."""
    return serve(x.dtype, x.device)


def takes_weights(weight: Float[Tensor, "d c i j"], is_gated: bool = False) -> bool:
    """Whether a convolution has a shape that these functions are for."""
    outputs, channels, down, across = weight.shape
    loaded = library()
    is_narrow = loaded is not None and channels <= loaded.stillmotion_most_channels()
    whole = PANEL if is_gated else LANES
    return takes(weight) and is_narrow and outputs % whole == 0 and channels % 2 == 0 and down * across <= MOST_TAPS


def packed(
    weight: Float[Tensor, "d c i j"], sums: Sequence[Sequence[float]] | None = None, is_gated: bool = False
) -> Float[Tensor, " n"]:
    """Weights in the order in which products read them.

    sums: for `convolve_in_sums`, what each laid out tap is of those of the weights, row by row. is_gated: the first
    half of outputs are values, the second their gates.
    """
    outputs, channels, taps = *weight.shape[:2], weight[0, 0].numel()
    rows = torch.eye(taps) if sums is None else torch.tensor(sums)
    target = weight.new_empty(outputs * channels * len(rows))
    if weight.is_meta:
        return target
    weight = weight.contiguous()
    columns = torch.zeros(taps, LANES)
    columns[:, : len(rows)] = rows.T
    job = _Packing(
        weight=weight.data_ptr(),
        sums=columns.data_ptr(),
        target=target.data_ptr(),
        outputs=outputs,
        channels=channels,
        taps=taps,
        laid_taps=len(rows),
        is_gated=is_gated,
    )
    _call("pack", job)
    return target


def packed_bias(bias: Float[Tensor, " d"] | None, like: Float[Tensor, "d ..."], is_gated: bool = False) -> Tensor:
    """A bias for products, in float32; zeros where there is none."""
    if bias is None:
        return like.new_zeros(len(like), dtype=torch.float32)
    if not is_gated:
        return bias.float()
    values, gates = bias.float().unflatten(0, (2, -1, PANEL // 2))
    return torch.stack([values, gates], dim=1).flatten()


def convolve(
    images: Float[Tensor, "r h w c"],
    weights: Float[Tensor, " n"],
    bias: Float[Tensor, " d"],
    window: Window,
    other: Float[Tensor, "r h2 w2 e"] | None = None,
    portion: float = 1.0,
    is_gated: bool = False,
    target: Float[Tensor, "r h2 w2 e"] | None = None,
) -> Float[Tensor, "r h2 w2 e"]:
    """A convolution by `packed` weights and a `packed_bias`.

    other: what `portion` times the result is added to. is_gated: instead, one half of outputs times GELU of the other,
    of weights that are packed so. target: where the result goes; it may be `other`.
    """
    assert not (is_gated and other is not None)
    made_height, made_width = window.made_of(images.shape[1], images.shape[2])
    if target is None:
        target = images.new_empty(len(images), made_height, made_width, len(bias) // (2 if is_gated else 1))
    if images.is_meta:
        return target
    assert are_rows_in_turn(target)
    images = _with_near_channels(images)
    added = target if other is None else _with_rows_in_turn(other)
    job = _Convolution(
        images=images.data_ptr(),
        weights=weights.data_ptr(),
        other=added.data_ptr(),
        bias=bias.data_ptr(),
        target=target.data_ptr(),
        count=len(images),
        height=images.shape[1],
        width=images.shape[2],
        channels=images.shape[3],
        made_height=made_height,
        made_width=made_width,
        taps_down=window.down,
        taps_across=window.across,
        outputs=len(bias),
        stride=window.stride,
        above=window.margins[0],
        before=window.margins[1],
        pixel_stride=images.stride(2),
        row_stride=images.stride(1),
        image_stride=images.stride(0),
        target_stride=target.stride(2),
        target_image_stride=target.stride(0),
        other_stride=added.stride(2),
        other_image_stride=added.stride(0),
        portion=portion,
        how=_GATED if is_gated else _PLAIN if other is None else _ADDED,
    )
    _call("convolve", job)
    return target


def are_rows_in_turn(x: Float[Tensor, "r h w c"]) -> bool:
    """Whether the rows of each image lie one behind the other, and channels side by side: what `convolve` writes to."""
    return x.stride(3) == 1 and (x.shape[1] == 1 or x.stride(1) == x.shape[2] * x.stride(2))


def _with_rows_in_turn(x: Tensor) -> Tensor:
    return x if are_rows_in_turn(x) else x.contiguous()


def _with_near_channels(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def convolve_in_sums(
    images: Float[Tensor, "r h w c"],
    weights: Float[Tensor, " n"],
    bias: Float[Tensor, " d"],
    axes: tuple[Axis, Axis],
    other: Float[Tensor, "r h2 w2 d"] | None = None,
    portion: float = 1.0,
    is_padded: bool = False,
    target: Float[Tensor, "r h2 w2 d"] | None = None,
) -> Float[Tensor, "r h2 w2 d"]:
    """As `convolve`, of sums of inputs by `packed` sums of taps.

    axes: what each does. paired: three taps make pairs of outputs. doubled: each pixel counts twice before the three
    taps. alone: no taps.
    """
    margins = [0 if axis == "alone" or not is_padded else 2 for axis in axes]
    count, height, width = len(images), images.shape[1] - margins[0], images.shape[2] - margins[1]
    if target is None:
        sizes = [size * (2 if axis == "doubled" else 1) for size, axis in zip((height, width), axes, strict=True)]
        target = images.new_empty(count, *sizes, len(bias))
    if images.is_meta:
        return target
    assert _are_pixels_near(target)
    images = _with_near_pixels(images)
    other = None if other is None else _with_near_pixels(other)
    job = _Winograd(
        images=images.data_ptr(),
        weights=weights.data_ptr(),
        other=None if other is None else other.data_ptr(),
        bias=bias.data_ptr(),
        target=target.data_ptr(),
        count=count,
        height=height,
        width=width,
        channels=images.shape[3],
        outputs=len(bias),
        row_stride=images.stride(1),
        image_stride=images.stride(0),
        target_row_stride=target.stride(1),
        target_image_stride=target.stride(0),
        other_row_stride=0 if other is None else other.stride(1),
        other_image_stride=0 if other is None else other.stride(0),
        portion=portion,
        down=_AXES[axes[0]],
        across=_AXES[axes[1]],
        is_padded=is_padded,
    )
    _call("convolve_in_sums", job)
    return target


def group_norm(
    x: Float[Tensor, "r h w c"],
    groups: int,
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    eps: float,
    is_activated: bool = False,
) -> Float[Tensor, "r h w c"]:
    """Group norm of each image over its pixels and the channels of a group, and SiLU of it where asked for."""
    target = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.is_meta:
        return target
    x = _with_near_pixels(x)
    _call(
        "group_norm",
        _norm(
            x, target, weight=weight.data_ptr(), bias=bias.data_ptr(), groups=groups, eps=eps, is_activated=is_activated
        ),
    )
    return target


def layer_norm(
    x: Float[Tensor, "... c"], weight: Float[Tensor, " c"], bias: Float[Tensor, " c"], eps: float
) -> Float[Tensor, "... c"]:
    """Layer norm over the last axis."""
    target = torch.empty_like(x, memory_format=torch.contiguous_format)
    if not x.is_meta:
        rows, into = (each.view(1, 1, -1, x.shape[-1]) for each in (x.contiguous(), target))
        _call("layer_norm", _norm(rows, into, weight=weight.data_ptr(), bias=bias.data_ptr(), eps=eps))
    return target


def scaled(
    x: Float[Tensor, "r h w c"],
    scale: Float[Tensor, "k c"],
    shift: Float[Tensor, "k c"],
    target: Float[Tensor, "r h w c"],
) -> None:
    """SiLU of x * scale + shift, in float32, into `target`: a row of each for each image, or one for all."""
    if x.is_meta:
        return
    x, scale, shift = _with_near_pixels(x), scale.contiguous(), shift.contiguous()
    assert _are_pixels_near(target)
    stride = 0 if len(scale) == 1 else x.shape[3]
    _call(
        "apply",
        _norm(x, target, scale=scale.data_ptr(), shift=shift.data_ptr(), affine_stride=stride, is_activated=True),
    )


def moments(x: Float[Tensor, "r h w c"]) -> tuple[Float[Tensor, "r c"], Float[Tensor, "r c"]]:
    """Mean and biased variance of each channel over the pixels of each image, in float32."""
    mean, variance = (x.new_empty(len(x), x.shape[3], dtype=torch.float32) for _ in range(2))
    if not x.is_meta:
        x = _with_near_pixels(x)
        pointers = [ctypes.c_void_p(each.data_ptr()) for each in (mean, variance)]
        _call("moments", _norm(x, x), *pointers)
    return mean, variance


def _are_pixels_near(x: Tensor) -> bool:
    return x.stride(3) == 1 and x.stride(2) == x.shape[3]


def _with_near_pixels(x: Tensor) -> Tensor:
    return x if _are_pixels_near(x) else x.contiguous()


def attends(width: int) -> bool:
    """Whether `attend` is for heads of this width."""
    return width % LANES == 0 and width <= MOST_HEAD_WIDTH


def attend(qkv: Float[Tensor, "r n e"], heads: int) -> Float[Tensor, "r n d"]:
    """Scaled dot-product attention of queries, keys and values that lie side by side, each with its heads so."""
    rows, tokens, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    target = qkv.new_empty(rows, tokens, channels)
    if qkv.is_meta:
        return target
    qkv = qkv.contiguous()
    width, size = channels // heads, qkv.element_size()
    job = _Attention(
        queries=qkv.data_ptr(),
        keys=qkv.data_ptr() + size * channels,
        values=qkv.data_ptr() + 2 * size * channels,
        target=target.data_ptr(),
        rows=rows,
        heads=heads,
        tokens=tokens,
        width=width,
        token_stride=3 * channels,
        row_stride=3 * channels * tokens,
        target_token_stride=channels,
        target_row_stride=channels * tokens,
        scale=width**-0.5,
    )
    _call("attend", job)
    return target


def _call(name: str, job: ctypes.Structure, *more: Any) -> None:
    loaded = library()
    assert loaded is not None, "the caller asks `takes` first"
    function: Callable[..., int] = getattr(loaded, f"stillmotion_{name}")
    if function(ctypes.byref(job), *more, ctypes.c_uint(torch.get_num_threads())):
        raise MemoryError(f"{name} could not get the memory that it works in.")


def _norm(x: Tensor, target: Tensor, **more: Any) -> ctypes.Structure:
    count, height, width, channels = x.shape
    return _Norm(
        images=x.data_ptr(),
        target=target.data_ptr(),
        count=count,
        height=height,
        width=width,
        channels=channels,
        row_stride=x.stride(1),
        image_stride=x.stride(0),
        target_row_stride=target.stride(1),
        target_image_stride=target.stride(0),
        **more,
    )


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


def _structure(name: str, fields: Sequence[tuple[str, Any]]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


# The structures of the same names beside this file.
_Packing = _structure(
    "Packing",
    _fields(ctypes.c_void_p, "weight sums target")
    + _fields(ctypes.c_size_t, "outputs channels taps laid_taps")
    + _fields(ctypes.c_int, "is_gated"),
)
_Winograd = _structure(
    "Winograd",
    _fields(ctypes.c_void_p, "images weights other bias target")
    + _fields(ctypes.c_size_t, "count height width channels outputs row_stride image_stride")
    + _fields(ctypes.c_size_t, "target_row_stride target_image_stride other_row_stride other_image_stride")
    + _fields(ctypes.c_float, "portion")
    + _fields(ctypes.c_int, "down across is_padded")
    + _fields(ctypes.c_size_t, "tiles_at_once block")
    + _fields(ctypes.c_void_p, "is_short_of_memory"),
)
_Convolution = _structure(
    "Convolution",
    _fields(ctypes.c_void_p, "images weights other bias target")
    + _fields(ctypes.c_size_t, "count height width channels made_height made_width taps_down taps_across outputs")
    + _fields(ctypes.c_size_t, "stride above before pixel_stride row_stride image_stride")
    + _fields(ctypes.c_size_t, "target_stride target_image_stride other_stride other_image_stride")
    + _fields(ctypes.c_float, "portion")
    + _fields(ctypes.c_int, "how"),
)
_Norm = _structure(
    "Norm",
    _fields(ctypes.c_void_p, "images sums target scale shift weight bias")
    + _fields(ctypes.c_size_t, "count height width channels groups")
    + _fields(ctypes.c_size_t, "row_stride image_stride target_row_stride target_image_stride affine_stride")
    + _fields(ctypes.c_float, "eps")
    + _fields(ctypes.c_int, "is_activated"),
)
_Attention = _structure(
    "Attention",
    _fields(ctypes.c_void_p, "queries keys values target")
    + _fields(ctypes.c_size_t, "rows heads tokens width")
    + _fields(ctypes.c_size_t, "token_stride row_stride target_token_stride target_row_stride")
    + _fields(ctypes.c_float, "scale")
    + _fields(ctypes.c_void_p, "is_short_of_memory"),
)

"""The U-Net made ready for one generation: what no step changes is computed once, and nothing is done twice.

Equal to the plain network in real arithmetic; only the order of roundings differs. Against `models/unet.py`, which
stays the reference:

- cross-attention to one token is one vector a block, and the embeddings of the frames' positions are constants;
- noise level and scalar conditions are the same in both branches of guidance, so that a residual block's share of them
  goes into its convolution's bias;
- pixels come last but for their channels everywhere ("b t n c"), so that every linear map, and every convolution over
  frames, is a product of the tensor as it lies;
- a block works on a few thousand pixels at a time, which stay in the processor's cache from its norm to its residual;
- blends and residual sums are written by the product before them.

Where `nn.regions` are in force, products are torch's plain ones, and each piece of a block is compiled with its norms,
gates and sums; then a call takes all pixels, since what is fused needs no cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import operations
from ..nn.attention import GEGLU, FeedForward, attend_within
from ..nn.embedding import sinusoid
from ..nn.mix import Mix
from ..nn.products import (
    Convolution,
    GatedProduct,
    HalvingConvolution,
    Product,
    TinyConvolution,
    add_portion,
    is_own,
    is_tiny,
)
from ..nn.regions import are_in_force, region
from ..nn.resample import Downsample, Upsample
from ..nn.resnet import ResnetBlock, SpatioTemporalResnet, TemporalResnetBlock
from ..nn.transformer import SpatialTransformerBlock, SpatioTemporalTransformer, TemporalTransformerBlock
from ..nn.untouched import is_untouched
from ..nn.winograd import DoublingConvolution, WinogradConvolution, suits, tile_for
from .kept import Kept
from .mapped import file_pages, give_back
from .unet import DownLevel, UNet, UpLevel

# Pixels, counted over frames and videos, that a block holds at once on the CPU: 2,048 of 320 channels are 2.6 MB in
# float32, beside a hidden tensor of 10 MB. Those of fewer bytes than WIDE_BYTES are as many more.
PIXELS_AT_ONCE, WIDE_BYTES = 2048, 640
# The same of our own compiled code, which keeps near what it needs by itself: twice as many spare 4 % of a step.
OWN_PIXELS_AT_ONCE = 4096

# A network up to this size keeps its weights as the library orders them in any case.
KEPT_BYTES = 256 * 2**20
# Channels of a group up to which torch's norm with channels last takes longer than the one with pixels last and two
# copies: at 8 x 20 x 32 x 64 in bfloat16 2.3 against 0.2 ms, at 4 x 32 x 32 x 320 in float32 0.2 against 3.1 ms.
FEW_CHANNELS = 4

Kind = TypeVar("Kind", bound=nn.Module)
Made = TypeVar("Made")
Network = Callable[[Tensor, Tensor], Tensor]
AnyConvolution = Convolution | WinogradConvolution | TinyConvolution


def prepared(
    unet: nn.Module, context: Float[Tensor, "b n d"], numbers: Float[Tensor, "b k"], kept: Kept | None = None
) -> Network | None:
    """The network of one generation, called with latents `b t c h w` and noise levels `b`; None where it cannot be.

    kept: where weights that the CPU's library has put into its own order stay for the next step, and the next video, in
    0.8 to 1.4 times the memory of the network; pages of its file behind them are given back. Without, those of a small
    network stay for this generation.

    That is where tokens are several or rows differ in their numbers, where gradients are wanted, and where the network
    is not just ours (`is_plain`).
    """
    is_one = context.shape[1] == 1 and bool((numbers == numbers[:1]).all())
    if isinstance(unet, UNet) and is_one and not torch.is_grad_enabled() and is_plain(unet):
        return Prepared(unet, context, numbers[:1], kept)
    return None


def is_plain(unet: nn.Module) -> bool:
    """Whether a network is ours and temporal down to its last layer: not compiled, hooked, adapted or parametrised.

    Off the CPU, where a block holds all pixels, neither may its feed-forwards have been told to work in slices.
    """
    if not isinstance(unet, UNet) or not unet.cfg.is_temporal:
        return False
    if any(type(parameter) is not nn.Parameter for parameter in unet.parameters()):  # quantised in place, say
        return False
    on_cpu = unet.conv_in.weight.device.type == "cpu"
    return all(_is_ours(module) and (on_cpu or not _is_sliced(module)) for module in unet.modules())


def _is_ours(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.nn.modules.", "stillmotion.")) and is_untouched(module)


def _is_sliced(module: nn.Module) -> bool:
    return isinstance(module, FeedForward) and (module.chunk_size, module.slices) != (None, None)


def is_small(unet: nn.Module) -> bool:
    """Whether the weights stay in the library's order in any case, at least for one generation."""
    return sum(parameter.nbytes for parameter in unet.parameters()) <= KEPT_BYTES


class LaidOut:
    """All that is made ready of a network for latents of one size on its device: for the bytes of it."""

    def __init__(self, unet: UNet, videos: int, frames: int, height: int, width: int) -> None:
        # Numbers of the network that are not read any more once these layers are made.
        self.replaced = 0
        self._layers: list[object] = []
        weight = unet.conv_in.weight
        for module, (rows, columns) in _sized(unet, height, width):
            whole = functools.partial(weight.new_empty(1).expand, videos, frames, rows, columns)  # takes no memory
            if isinstance(module, SpatioTemporalResnet):
                self._take_resnet(module, whole)
            elif isinstance(module, SpatioTemporalTransformer):
                self._take_transformer(module, videos * frames * rows * columns)
            elif isinstance(module, Downsample):
                halve = HalvingConvolution(module.conv)
                self._take(module.conv if halve.is_own else None, halve)
            else:
                conv = cast(Upsample, module).conv
                like = _at_once(whole(conv.in_channels))
                self._take(conv, DoublingConvolution(conv.weight, cast(Tensor, conv.bias), like))

    def _take_resnet(self, block: SpatioTemporalResnet, whole: Callable[[int], Tensor]) -> None:
        spatial, temporal = block.spatial_res_block, block.temporal_res_block
        x = whole(temporal.conv1.in_channels)
        pixels = x.shape[:4].numel()
        histories = x.flatten(2, 3)[:, :, : max(1, _pixels_at_once(x) // x.shape[:2].numel())]
        seen = {layer: _at_once(whole(layer.in_channels)) for layer in (spatial.conv1, spatial.conv2)}
        for layer, images in (seen | dict.fromkeys((temporal.conv1, temporal.conv2), histories)).items():
            made = _convolution(layer, images, pixels, is_kept=True)
            is_as_it_was = isinstance(made, Convolution) and not made.is_fused
            self._take(None if is_as_it_was else layer, made)
        if spatial.conv_shortcut is not None:
            self._take(spatial.conv_shortcut, Product(spatial.conv_shortcut.weight.flatten(1), None, pixels))

    def _take_transformer(self, layer: SpatioTemporalTransformer, pixels: int) -> None:
        for product in (layer.proj_in, layer.proj_out):
            self._take(product, Product(product.weight.flatten(1), None, pixels))
        spatial = _as_kind(SpatialTransformerBlock, layer.transformer_blocks)
        temporal = _as_kind(TemporalTransformerBlock, layer.temporal_transformer_blocks)
        for block in (*spatial, *temporal):
            self._take(nn.ModuleList([block.attn1, block.ff]), _Layers(block, pixels))
        for block in temporal:
            self._take(block.ff_in, _Feed(block.ff_in, pixels))

    def _take(self, replaced: nn.Module | None, layer: object) -> None:
        self._layers.append(layer)
        if replaced is not None:
            self.replaced += sum(parameter.numel() for parameter in replaced.parameters())


def _sized(unet: UNet, height: int, width: int) -> Iterator[tuple[nn.Module, tuple[int, int]]]:
    """Blocks, halvings and doublings, each with the height and the width of what goes in."""
    sizes = [(height, width)]
    for level in unet.down_blocks:
        yield from ((each, sizes[-1]) for pair in _blocks(cast(DownLevel, level)) for each in pair if each is not None)
        if "downsamplers" in level._modules:
            yield from ((each, sizes[-1]) for each in cast(nn.ModuleList, level.downsamplers))
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    for blocks in (unet.mid_block.resnets, unet.mid_block.attentions):
        yield from ((each, sizes[-1]) for each in cast(nn.ModuleList, blocks))
    for level in unet.up_blocks:
        yield from ((each, sizes[-1]) for pair in _blocks(cast(UpLevel, level)) for each in pair if each is not None)
        if "upsamplers" in level._modules:
            small = sizes.pop()
            if sizes[-1] == (2 * small[0], 2 * small[1]):
                yield from ((each, small) for each in cast(nn.ModuleList, level.upsamplers))


def _at_once(x: Float[Tensor, "b t h w c"]) -> Float[Tensor, "r h w c"]:
    """As many images as are worked on together."""
    return x.flatten(0, 1)[: _rows_at_once(x)]


class Prepared:
    """One network with one context `b 1 d` and one row of scalar conditions, all videos of a batch alike in noise."""

    def __init__(
        self, unet: UNet, context: Float[Tensor, "b 1 d"], numbers: Float[Tensor, "1 k"], kept: Kept | None = None
    ) -> None:
        self._unet = unet
        # Never one row alone: torch's product with a vector rounds otherwise where weights lie otherwise in memory.
        self._numbers = numbers.expand(2, -1)
        rows = torch.cat([context, context])
        self._looks = {
            block.attn2: block.attn2.of_one_token(rows)[: len(context), 0]
            for block in unet.modules()
            if isinstance(block, SpatialTransformerBlock | TemporalTransformerBlock)
        }
        self._positions: dict[tuple[nn.Module, int], Tensor] = {}
        self._is_compiled = are_in_force()
        # Numbers on the CPU; elsewhere reading one would wait for the device, and compiled code be bound to it.
        reads = unet.conv_in.weight.device.type == "cpu" and not self._is_compiled
        self._shares = {
            mix: _frame_share(mix) if reads else _frame_share_there(mix)
            for mix in unet.modules()
            if isinstance(mix, Mix)
        }
        self._is_small = is_small(unet)
        self._keeps = self._is_small or kept is not None
        self._is_settled = kept is None
        self._kept = Kept() if kept is None else kept

    def __call__(self, x: Float[Tensor, "b t c h w"], c_noise: Float[Tensor, " b"]) -> Float[Tensor, "b t c2 h w"]:
        """As UNet.forward. `c_noise` is one level, given for each row."""
        unet = self._unet
        if not self._is_settled:
            self._kept.settle(unet, x.shape[1:])
            self._is_settled = True
        embedding = F.silu(unet.embed(c_noise[:1].expand(2), self._numbers, x.dtype))
        pixels = x.permute(0, 1, 3, 4, 2).contiguous()
        first = _convolution(unet.conv_in, pixels.flatten(0, 1))
        skips = [_framewise(pixels, lambda rows, target: first(rows, target=target))]
        for level in unet.down_blocks:
            skips += self._down(cast(DownLevel, level), skips[-1], embedding)
        before, after = _as_kind(SpatioTemporalResnet, unet.mid_block.resnets)
        h = self._resnet(before, skips[-1], embedding)
        for layer in _as_kind(SpatioTemporalTransformer, unet.mid_block.attentions):
            h = self._transformer(layer, h)
        h = self._resnet(after, h, embedding)
        for level in unet.up_blocks:
            h = self._up(cast(UpLevel, level), h, skips, embedding)
        last = _convolution(unet.conv_out, h.flatten(0, 1))
        h = _framewise(h, lambda rows, target: _left(rows, unet.conv_norm_out, last, target))
        return h.permute(0, 1, 4, 2, 3)

    def _down(self, level: DownLevel, h: Tensor, embedding: Tensor) -> list[Tensor]:
        outputs = []
        for resnet, layer in _blocks(level):
            h = self._resnet(resnet, h, embedding)
            if layer is not None:
                h = self._transformer(layer, h)
            outputs.append(h)
        if "downsamplers" in level._modules:
            outputs += [self._halved(layer, h) for layer in _as_kind(Downsample, level.downsamplers)]
        return outputs

    def _up(self, level: UpLevel, h: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        for resnet, layer in _blocks(level):
            h = self._resnet(resnet, torch.cat([h, skips.pop()], dim=-1), embedding)
            if layer is not None:
                h = self._transformer(layer, h)
        if "upsamplers" in level._modules:
            for layer in _as_kind(Upsample, level.upsamplers):
                h = self._enlarged(layer, h, (skips[-1].shape[2], skips[-1].shape[3]))
        return h

    def _halved(self, layer: Downsample, x: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h2 w2 c"]:
        halve = self._ready((layer,), lambda: HalvingConvolution(layer.conv))
        return halve(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def _enlarged(
        self, layer: Upsample, x: Float[Tensor, "b t h w c"], size: tuple[int, int]
    ) -> Float[Tensor, "b t h2 w2 c"]:
        if size != (2 * x.shape[2], 2 * x.shape[3]):  # an odd size was rounded up on the way down
            return layer(x.permute(0, 1, 4, 2, 3), size).permute(0, 1, 3, 4, 2).contiguous()
        like, conv = _at_once(x), layer.conv
        bias = cast(Tensor, conv.bias)
        keeps = self._keeps or x.device.type != "cpu"  # making it reads numbers, which a device would be waited for
        double = self._ready((layer, like.shape), lambda: DoublingConvolution(conv.weight, bias, like), keeps)
        return _framewise(x, double)

    def _resnet(
        self, block: SpatioTemporalResnet, x: Float[Tensor, "b t h w c"], embedding: Float[Tensor, "2 e"]
    ) -> Float[Tensor, "b t h w c2"]:
        spatial, temporal = block.spatial_res_block, block.temporal_res_block
        like = _at_once(x)
        pixels = x.shape[:4].numel()
        conv1, conv2 = (self._convolution(layer, like, pixels) for layer in (spatial.conv1, spatial.conv2))
        shortcut = spatial.conv_shortcut and self._product(spatial.conv_shortcut, like)
        shift, layers = _shift(spatial, embedding), (conv1, conv2, shortcut)
        norms = spatial.norm1, spatial.norm2
        h = _framewise(x, lambda rows, target: _within_frames(rows, norms, layers, shift, target))
        self._across_frames(block, h.flatten(2, 3), _shift(temporal, embedding))
        return h

    def _transformer(
        self, layer: SpatioTemporalTransformer, x: Float[Tensor, "b t h w c"]
    ) -> Float[Tensor, "b t h w c"]:
        like = _at_once(x)
        enter, leave = self._product(layer.proj_in, like), self._product(layer.proj_out, like)
        tokens = _framewise(x, lambda rows, target: _entered(rows, layer.norm, enter, target)).flatten(2, 3)
        position = self._position(layer, x.shape[1], tokens)
        blocks = zip(
            _as_kind(SpatialTransformerBlock, layer.transformer_blocks),
            _as_kind(TemporalTransformerBlock, layer.temporal_transformer_blocks),
            strict=True,
        )
        for spatial_block, temporal_block in blocks:
            self._attend_within(spatial_block, tokens)
            self._attend_across(temporal_block, tokens, position, self._shares[layer.time_mixer])
        made = torch.empty_like(x)
        each = (whole.flatten(0, 1).split(len(like)) for whole in (tokens.view_as(x), x, made))
        for part, residual, target in zip(*each, strict=True):
            _add_to(part, leave, residual, target)
        return made

    def _attend_within(self, block: SpatialTransformerBlock, tokens: Float[Tensor, "b t n c"]) -> None:
        """The block of each frame, in place, some frames at a time."""
        look = self._looks[block.attn2].repeat_interleave(tokens.shape[1], dim=0)
        frames = max(1, _pixels_at_once(tokens) // tokens.shape[2])
        layers = self._layers(block, frames * tokens.shape[2])
        for x, seen in zip(tokens.flatten(0, 1).split(frames), look.split(frames), strict=True):
            _replace(x, layers, seen[:, None])

    def _attend_across(
        self,
        block: TemporalTransformerBlock,
        tokens: Float[Tensor, "b t n c"],
        position: Float[Tensor, "t c"],
        frame_share: float | Tensor,
    ) -> None:
        """The block of each pixel's history and its blend, in place, some pixels at a time."""
        videos, frames = tokens.shape[:2]
        look = self._looks[block.attn2]
        pixels = max(1, _pixels_at_once(tokens) // (videos * frames))
        rows = videos * frames * pixels
        layers = self._layers(block, rows)
        enter = self._ready((block.ff_in, rows), lambda: _Feed(block.ff_in, rows))
        for part in tokens.split(pixels, dim=2):
            _blend_across(part, position, block.norm_in, enter, layers, look, frame_share)

    def _position(self, layer: SpatioTemporalTransformer, frames: int, like: Tensor) -> Float[Tensor, "t c"]:
        if (layer, frames) not in self._positions:
            waves = sinusoid(torch.arange(max(2, frames), device=like.device), layer.channels)
            self._positions[layer, frames] = layer.time_pos_embed(waves.to(like.dtype))[:frames]
        return self._positions[layer, frames]

    def _across_frames(
        self, block: SpatioTemporalResnet, x: Float[Tensor, "b t n c"], shift: Float[Tensor, " c"]
    ) -> None:
        """The temporal half of a residual block and its blend, in place."""
        temporal, share = block.temporal_res_block, self._shares[block.time_mixer]
        # Our own code goes through a tensor in parts that fit into the cache by itself.
        pixels = x.shape[2] if is_own(x) else max(1, _pixels_at_once(x) // (x.shape[0] * x.shape[1]))
        like = x[:, :, :pixels]
        total = x.shape[:3].numel()
        conv1, conv2 = (self._convolution(layer, like, total) for layer in (temporal.conv1, temporal.conv2))
        if pixels == x.shape[2]:
            _move_across(x, temporal.norm1, temporal.norm2, conv1, conv2, shift, share)
            return
        h = _pixelwise(_activated(x, temporal.norm1), pixels, lambda part: conv1(part, shift=shift))
        add_portion(x, _pixelwise(_activated(h, temporal.norm2), pixels, conv2), 1 - share)

    def _layers(self, block: SpatialTransformerBlock | TemporalTransformerBlock, rows: int) -> _Layers:
        return self._ready((block, rows), lambda: _Layers(block, rows))

    def _product(self, layer: nn.Linear | nn.Conv2d, like: Float[Tensor, "r h w c"]) -> Product:
        rows = like.shape[:-1].numel()
        return self._ready((layer, rows), lambda: Product(layer.weight.flatten(1), layer.bias, rows))

    def _convolution(self, layer: nn.Conv2d | nn.Conv3d, like: Float[Tensor, "r h w c"], pixels: int) -> AnyConvolution:
        return self._ready((layer, like.shape, pixels), lambda: _convolution(layer, like, pixels, self._keeps))

    def _ready(
        self, key: tuple[nn.Module, *tuple[Hashable, ...]], make: Callable[[], Made], keeps: bool | None = None
    ) -> Made:
        """What `make` makes of the module that `key` begins with; kept for the next step, or not, as `keeps` says."""
        if not (self._keeps if keeps is None else keeps):
            return make()
        made, is_new = self._kept.ready((self._is_compiled, *key), make)
        if is_new and not self._is_small:
            give_back(file_pages(key[0].parameters()))
        return made


class _Layers:
    """Self-attention, the look at the context, feed-forward, each added: of one block, for calls of `rows` tokens."""

    def __init__(self, block: SpatialTransformerBlock | TemporalTransformerBlock, rows: int) -> None:
        attention = block.attn1
        self._heads = attention.heads
        self._norm1, self._norm3 = block.norm1, block.norm3
        weights = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])
        (out,) = _as_kind(nn.Linear, attention.to_out)
        self._qkv = Product(weights, None, rows)
        self._out = Product(out.weight, out.bias, rows)
        self._feed = _Feed(block.ff, rows)

    def __call__(
        self, x: Float[Tensor, "r n c"], look: Float[Tensor, "r 1 c"], target: Float[Tensor, "r n c"] | None = None
    ) -> Float[Tensor, "r n c"]:
        """The block of `x`; into `target` where it is given, which may be `x`."""
        qkv = self._qkv(_standardised(x, self._norm1))
        attended = self._out(attend_within(qkv, self._heads), x + look)
        return self._feed(self._norm3, attended, target)


class _Feed:
    """A gated feed-forward on its norm, added to its input."""

    def __init__(self, layer: FeedForward, rows: int) -> None:
        first, last = cast(GEGLU, layer.net[0]).proj, cast(nn.Linear, layer.net[2])
        self._first = GatedProduct(first.weight, first.bias, rows)
        self._last = Product(last.weight, last.bias, rows)

    def __call__(
        self, norm: nn.LayerNorm, x: Float[Tensor, "r n c"], target: Float[Tensor, "r n c"] | None = None
    ) -> Float[Tensor, "r n c"]:
        return self._last(self._first(_standardised(x, norm)), x, target=target)


@region()
def _within_frames(
    rows: Float[Tensor, "r h w c"],
    norms: tuple[nn.GroupNorm, nn.GroupNorm],
    layers: tuple[AnyConvolution, AnyConvolution, Product | None],
    shift: Float[Tensor, " c2"],
    target: Float[Tensor, "r h w c2"] | None,
) -> Float[Tensor, "r h w c2"]:
    """A residual block of single frames; its layers are two convolutions and the shortcut's product."""
    conv1, conv2, shortcut = layers
    h = conv1(_activated(rows, norms[0]), shift=shift)
    return conv2(_activated(h, norms[1]), rows if shortcut is None else shortcut(rows), target=target)


@region()
def _move_across(
    x: Float[Tensor, "b t n c"],
    norm1: nn.GroupNorm,
    norm2: nn.GroupNorm,
    conv1: AnyConvolution,
    conv2: AnyConvolution,
    shift: Float[Tensor, " c"],
    frame_share: float | Tensor,
) -> None:
    """A residual block of pixels' histories and its blend, in place: a x + (1 - a)(x + h) is x + (1 - a) h."""
    h = conv1(_activated(x, norm1), shift=shift)
    conv2.add_to(x, _activated(h, norm2), 1 - frame_share)


@region()
def _entered(
    rows: Float[Tensor, "r h w c"], norm: nn.GroupNorm, enter: Product, target: Float[Tensor, "r h w c"] | None
) -> Float[Tensor, "r h w c"]:
    return enter(_normalised(rows, norm), target=target)


@region()
def _replace(x: Float[Tensor, "r n c"], layers: _Layers, look: Float[Tensor, "r 1 c"]) -> None:
    layers(x, look, target=x)


@region()
def _blend_across(
    tokens: Float[Tensor, "b t n c"],
    position: Float[Tensor, "t c"],
    norm: nn.LayerNorm,
    enter: _Feed,
    layers: _Layers,
    look: Float[Tensor, "b c"],
    frame_share: float | Tensor,
) -> None:
    """A temporal block of pixels' histories and its blend, in place."""
    x = (tokens + position[:, None]).transpose(1, 2).flatten(0, 1)
    x = layers(enter(norm, x), look.repeat_interleave(tokens.shape[2], dim=0)[:, None])
    made = x.unflatten(0, (len(tokens), -1)).transpose(1, 2)
    if isinstance(frame_share, Tensor):  # torch's lerp wants it rounded to the tokens' precision
        tokens.addcmul_(made - tokens, 1 - frame_share)
    else:
        tokens.lerp_(made, 1 - frame_share)


@region()
def _add_to(rows: Float[Tensor, "r h w c"], leave: Product, residual: Tensor, target: Tensor) -> None:
    leave(rows, residual, target=target)


@region()
def _left(
    rows: Float[Tensor, "r h w c"], norm: nn.GroupNorm, last: AnyConvolution, target: Float[Tensor, "r h w d"] | None
) -> Float[Tensor, "r h w d"]:
    return last(_activated(rows, norm), target=target)


def _pixelwise(
    x: Float[Tensor, "b t n c"], pixels: int, run: Callable[[Float[Tensor, "b t m c"]], Float[Tensor, "b t m c"]]
) -> Float[Tensor, "b t n c"]:
    """Apply a function of pixels' histories to some pixels at a time."""
    return torch.cat([run(part) for part in x.split(pixels, dim=2)], dim=2)


def _framewise(
    x: Float[Tensor, "b t h w c"],
    run: Callable[[Float[Tensor, "r h w c"], Float[Tensor, "r h2 w2 d"] | None], Float[Tensor, "r h2 w2 d"]],
) -> Float[Tensor, "b t h2 w2 d"]:
    """Apply a function of frames, and of where its result goes, to a few frames at a time."""
    frames, at_once = x.flatten(0, 1), _rows_at_once(x)
    made = run(frames[:at_once], None)
    if len(made) < len(frames):
        first, made = made, made.new_empty(len(frames), *made.shape[1:])
        made[: len(first)] = first
        for rows, target in zip(frames[at_once:].split(at_once), made[at_once:].split(at_once), strict=True):
            run(rows, target)
    return made.unflatten(0, x.shape[:2])


def _rows_at_once(x: Float[Tensor, "b t h w c"]) -> int:
    return max(1, _pixels_at_once(x) // (x.shape[2] * x.shape[3]))


def _pixels_at_once(x: Tensor) -> int:
    """On other devices than the CPU, and in compiled code, one call takes all."""
    if x.device.type != "cpu" or are_in_force():
        return x.numel() // x.shape[-1]
    return (OWN_PIXELS_AT_ONCE if is_own(x) else PIXELS_AT_ONCE) * max(1, WIDE_BYTES // (x.shape[-1] * x.itemsize))


def _convolution(
    layer: nn.Conv2d | nn.Conv3d, like: Float[Tensor, "r h w c"], pixels: int = 0, is_kept: bool = False
) -> AnyConvolution:
    """Over frames, they are the rows of an image as wide as a frame has pixels. `pixels`: of all calls."""
    weight = layer.weight[..., 0] if isinstance(layer, nn.Conv3d) else layer.weight
    bias = cast(Tensor, layer.bias)
    if is_kept and is_tiny(weight, like):
        return TinyConvolution(weight, bias, like)
    if suits(weight, like, pixels, is_kept):
        in_half = like.dtype != torch.float32
        tile = 2 if in_half else tile_for(weight, like, is_kept)
        return WinogradConvolution(weight, bias, like, along_rows_only=in_half, tile=tile)
    return Convolution(weight, bias, like)


def _normalised(rows: Float[Tensor, "r h w c"], norm: nn.GroupNorm) -> Float[Tensor, "r h w c"]:
    if is_own(rows):
        return operations.group_norm(rows, norm.num_groups, norm.weight, norm.bias, norm.eps)
    image = rows.permute(0, 3, 1, 2)
    if rows.device.type == "cpu" and rows.shape[3] <= FEW_CHANNELS * norm.num_groups:
        return norm(image.contiguous()).permute(0, 2, 3, 1).contiguous()
    return norm(image).permute(0, 2, 3, 1)


def _activated(rows: Float[Tensor, "r h w c"], norm: nn.GroupNorm) -> Float[Tensor, "r h w c"]:
    if is_own(rows):
        return operations.group_norm(rows, norm.num_groups, norm.weight, norm.bias, norm.eps, is_activated=True)
    return F.silu(_normalised(rows, norm), inplace=True)


def _standardised(x: Float[Tensor, "r n c"], norm: nn.LayerNorm) -> Float[Tensor, "r n c"]:
    if is_own(x):
        return operations.layer_norm(x, norm.weight, norm.bias, norm.eps)
    return norm(x)


def _shift(block: ResnetBlock | TemporalResnetBlock, embedding: Float[Tensor, "2 e"]) -> Float[Tensor, " c"]:
    assert block.time_emb_proj is not None, "every residual block of the U-Net has one"
    return block.time_emb_proj(embedding)[0]


def _blocks(
    level: DownLevel | UpLevel,
) -> list[tuple[SpatioTemporalResnet, SpatioTemporalTransformer | None]]:
    """The residual blocks of a level, each with its transformer where it has one."""
    resnets = _as_kind(SpatioTemporalResnet, level.resnets)
    if "attentions" not in level._modules:
        return [(resnet, None) for resnet in resnets]
    return list(zip(resnets, _as_kind(SpatioTemporalTransformer, level.attentions), strict=True))


def _as_kind(kind: type[Kind], modules: nn.ModuleList) -> list[Kind]:
    assert all(isinstance(module, kind) for module in modules)
    return cast("list[Kind]", list(modules))


def _frame_share(mix: Mix) -> float:
    share = float(mix.mix_factor.sigmoid())
    return 1 - share if mix.weighs_temporal else share


def _frame_share_there(mix: Mix) -> Float[Tensor, ""]:
    share = mix.mix_factor.to(torch.promote_types(mix.mix_factor.dtype, torch.float32)).sigmoid()[0]
    return 1 - share if mix.weighs_temporal else share

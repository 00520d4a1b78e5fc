"""Decoded frames to upright RGB: matrix, range, place of the colour samples, display's turn, and transparency."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import cast

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from jaxtyping import UInt8
from PIL import Image

# swscale's defaults trade accuracy for speed, in code that differs between processors.
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)

# ITU-T H.273, table 4 (the tag in the file) to swscale's name of the same matrix.
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}


def siting(stream: av.VideoStream) -> Callable[[av.VideoFrame], av.VideoFrame]:
    """Say where the colour samples of ProRes lie, which its decoder leaves open: beside the left of two pixels."""
    if stream.codec_context.name != "prores":
        return lambda frame: frame
    graph = Graph()
    graph.threads = 1
    nodes = (graph.add_buffer(template=stream), graph.add("setparams", "chroma_location=left"), graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()

    def sited(frame: av.VideoFrame) -> av.VideoFrame:
        graph.push(frame)
        return cast(av.VideoFrame, graph.vpull())

    return sited


def to_array(
    reformatter: VideoReformatter, frame: av.VideoFrame, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w c"]:
    """RGB of a frame, or RGBA where it has transparency, at its own size or another; not turned yet.

    The matrix and range tags are honoured; what is untagged is BT.709 from 1280 wide or 577 high on, else BT.601.
    """
    has_alpha = any(component.is_alpha for component in frame.format.components)
    width, height = size or (frame.width, frame.height)
    converted = reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="rgba" if has_alpha else "rgb24",
        src_colorspace=None if frame.format.is_rgb else _matrix(frame),
        src_color_range=frame.color_range or None,
        dst_color_range=ColorRange.JPEG,
        interpolation=EXACT,
        threads=1,
    )
    return converted.to_ndarray()


def turned(pixels: UInt8[np.ndarray, "h w 3"], frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """Apply the display matrix [[a b u] [c d v] [x y w]]: x' = a x + c y, y' = b x + d y, with y downwards.

    Only quarter turns and mirrors, which is all that cameras write; another angle goes to the nearest. Source:
    libavutil/display.h.
    """
    matrix = cast(SideDataContainer, frame.side_data).get(SideDataType.DISPLAYMATRIX)  # PyAV's stub knows other keys
    if matrix is None:
        return pixels
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix))[:5]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        to_right, to_bottom = a, d
    else:
        pixels = pixels.swapaxes(0, 1)
        to_right, to_bottom = c, b
    pixels = pixels[:, ::-1] if to_right < 0 else pixels
    return np.ascontiguousarray(pixels[::-1] if to_bottom < 0 else pixels)


def over_white(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of an image of any mode, its transparent parts over white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return np.asarray(white)


def _matrix(frame: av.VideoFrame) -> Colorspace:
    guess = Colorspace.ITU709 if frame.width >= 1280 or frame.height > 576 else Colorspace.ITU601
    return MATRICES.get(int(frame.colorspace), guess)

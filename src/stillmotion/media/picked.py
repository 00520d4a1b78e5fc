"""Some frames of a video, by their numbers, upright and in RGB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8
from PIL import Image

from ..errors import MediaError
from .colour import over_white, siting, to_array, turned
from .scan import opened, video_stream


def read_frames(path: Path, numbers: Sequence[int]) -> UInt8[np.ndarray, "k h w 3"]:
    """The frames of these numbers, which count from 0 as shown and must not fall; equal numbers give equal frames.

    Colours and turn are as in `read_video`; damage is concealed. Raises MediaError where the video has fewer frames.
    """
    wanted, found = list(numbers), []
    with opened(path) as container:
        stream = video_stream(container, path)
        stream.codec_context.thread_count = 1
        reformatter, sited = VideoReformatter(), siting(stream)
        size: tuple[int, int] | None = None
        for number, frame in enumerate(_frames(container, stream)):
            size = size or (frame.width, frame.height)
            if number == wanted[len(found)]:
                pixels = _upright(reformatter, sited(frame), size)
                found += [pixels] * wanted.count(number)
            if len(found) == len(wanted):
                return np.stack(found)
    raise MediaError(f"{path} ends before frame {wanted[len(found)]}; expected a whole video.")


def _frames(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except FFmpegError:
            continue


def _upright(reformatter: VideoReformatter, frame: av.VideoFrame, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    pixels = to_array(reformatter, frame, size)
    return turned(over_white(Image.fromarray(pixels)) if pixels.shape[2] == 4 else pixels, frame)

"""What a video or an image file is, from its headers, and what this machine can encode and decode."""

from __future__ import annotations

import dataclasses
import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Stream
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from PIL import Image, ImageCms, features

from ..errors import MediaError
from .blocks import Kind, Source, gif_blocks, kind_of, png_chunks, webp_chunks
from .encode import CODEC_OPTIONS
from .formats import CODECS, Codec, CodecName
from .images import (
    AVIF_BRANDS,
    DECODER_ERRORS,
    EXPECTED,
    GENERAL_BRANDS,
    HEIC_BRANDS,
    image_file,
    open_image,
    orientation_in_header,
    reason_of,
)
from .pictures import TIMES
from .video import CONTAINERS

MAX_PACKETS = 1_000_000  # that are counted where the header does not say how many frames there are
# The first bytes of JPEG, BMP and both byte orders of TIFF.
IMAGE_STARTS = (b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
UNSPECIFIED = 2  # in every table of ITU-T H.273
# Its table 4: what PyAV calls matrices are swscale's numbers, which are others.
MATRICES = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc", 10: "bt2020c"}
TEST_SIDE = 64  # pixels; every encoder takes it


@dataclasses.dataclass(frozen=True, slots=True)
class StreamFacts:
    """One stream of a container. What only pictures have is None for sound, and what no header says is None too."""

    kind: str
    codec: str
    profile: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    frames: int | None = None
    duration_s: float | None = None
    pixel_format: str | None = None
    # Matrix, primaries, transfer and range, as far as the stream is tagged.
    colour: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class VideoFacts:
    """A video, an animation, or a folder of pictures."""

    container: str
    bytes: int
    duration_s: float | None
    streams: tuple[StreamFacts, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFacts:
    """A still image. Width and height are as stored; `orientation` is EXIF's 1 to 8, 1 where it says nothing."""

    format: str
    bytes: int
    width: int
    height: int
    mode: str
    orientation: int
    profile: str | None


def media_kind(path: Path) -> Literal["image", "video"]:
    """Whether a file is a still image, by its bytes; whatever is none is left to be a video.

    Raises MediaError for a file that cannot be read, and for a png, gif or webp that is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            source = Source(file, path)
            kind = kind_of(source)
            if kind in TIMES:
                return "video" if _is_animated(source, kind) else "image"
            head = source.read(0, min(16, source.size))
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror or error}; expected an image or a video.") from None
    is_picture = head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS | GENERAL_BRANDS | AVIF_BRANDS
    return "image" if is_picture or head.startswith(IMAGE_STARTS) else "video"


def probe(path: Path) -> VideoFacts:
    """The streams of a video, an animation or a folder of pngs; no frame is decoded.

    Frames are counted, from the header where it is exact, else packet by packet. Raises MediaError for a file that is
    missing, damaged or no video.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _probe_folder(path)
        with path.open("rb") as file:
            source = Source(file, path)
            kind = kind_of(source)
            if kind in TIMES:
                return _probe_animation(path, kind, source)
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        # The prefix keeps ffmpeg from reading "a:b.mp4" as an address of the protocol "a".
        with av.open(f"file:{path}", options=options) as container:
            return _probe_container(path, container)
    except (FFmpegError, OSError, UnicodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{path} cannot be read as a video: {reason}; expected a whole video or image.") from None


def probe_image(path: Path) -> ImageFacts:
    """The facts of an image file; no pixel is decoded. Raises MediaError for one that `read_image` would refuse."""
    path = Path(path)
    try:
        with image_file(path) as file, open_image(file, str(path)) as image:
            orientation = orientation_in_header(image, file, path)
            # Pillow gives the size that a TIFF has once it is turned.
            is_swapped = image.format == "TIFF" and orientation >= 5
            width, height = image.size[::-1] if is_swapped else image.size
            return ImageFacts(
                format=str(image.format),
                bytes=path.stat().st_size,
                width=width,
                height=height,
                mode=image.mode,
                orientation=orientation,
                profile=_profile_name(image),
            )
    except OSError as error:
        reason = reason_of(error) if error.errno is None else error.strerror
        raise MediaError(f"{path} cannot be read: {reason}; {EXPECTED}.") from None
    except DECODER_ERRORS as error:
        raise MediaError(f"{path} cannot be read: {reason_of(error)}; {EXPECTED}.") from None


def encoders() -> dict[CodecName, str | None]:
    """Every codec that videos are written with: None where its encoder opens, else why it does not."""
    os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 prints to stderr, and listens to nothing else
    return {name: _refusal(codec) for name, codec in CODECS.items()}


def image_decoders() -> dict[str, bool]:
    """Whether the image formats that not every Pillow reads can be read here."""
    return {name: bool(features.check(name)) for name in ("webp", "avif")}


def library_versions() -> dict[str, str]:
    """The versions of FFmpeg's libraries that are in use."""
    return {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}


def _is_animated(source: Source, kind: Kind) -> bool:
    if kind == "gif":
        pictures = (block for block in gif_blocks(source) if block.kind == b"\x2c")
        next(pictures, None)
        return next(pictures, None) is not None
    wanted, chunks = (b"ANMF", webp_chunks(source)) if kind == "webp" else (b"acTL", png_chunks(source))
    return any(chunk.kind == wanted for chunk in chunks)


def _probe_animation(path: Path, kind: Kind, source: Source) -> VideoFacts:
    times, _ = TIMES[kind](source)
    image = probe_image(path)
    duration = float(sum(times, Fraction(0)))
    stream = StreamFacts(
        kind="video",
        codec="apng" if kind == "png" else kind,
        width=image.width,
        height=image.height,
        fps=len(times) / duration if duration else None,
        frames=len(times),
        duration_s=duration,
        pixel_format=image.mode,
    )
    return VideoFacts(stream.codec, image.bytes, duration, (stream,))


def _probe_folder(folder: Path) -> VideoFacts:
    pictures = sorted(path for path in folder.glob("*.png") if path.name[0] != ".")
    if not pictures:
        raise MediaError(f"{folder} is a folder without pngs; expected a video, or a folder of numbered pngs.")
    first = probe_image(pictures[0])
    stream = StreamFacts("video", "png", None, first.width, first.height, frames=len(pictures), pixel_format=first.mode)
    return VideoFacts("folder of png", sum(path.stat().st_size for path in pictures), None, (stream,))


def _probe_container(path: Path, container: InputContainer) -> VideoFacts:
    if not any(isinstance(stream, av.VideoStream) for stream in container.streams):
        raise MediaError(f"{path} has no video stream; expected a video.")
    counted = _counted(container)
    streams = tuple(_stream(stream, counted) for stream in container.streams)
    duration = None if container.duration is None else container.duration / av.time_base
    return VideoFacts(container.format.name, path.stat().st_size, duration, streams)


def _counted(container: InputContainer) -> dict[int, int]:
    """The packets of each video stream; none where the header's own count is exact."""
    videos = [stream for stream in container.streams if isinstance(stream, av.VideoStream)]
    if "mp4" in container.format.name and all(stream.frames for stream in videos):
        return {}
    counts = dict.fromkeys((stream.index for stream in videos), 0)
    for seen, packet in enumerate(container.demux(videos)):
        if seen > MAX_PACKETS:
            return {}
        counts[packet.stream.index] += packet.size > 0
    return counts


def _stream(stream: Stream, counted: dict[int, int]) -> StreamFacts:
    context = stream.codec_context
    codec = "unknown" if context is None else context.codec.canonical_name
    length = stream.duration
    duration = None if length is None or stream.time_base is None else float(length * stream.time_base)
    if not isinstance(stream, av.VideoStream) or context is None:
        return StreamFacts(stream.type, codec, duration_s=duration)
    video = cast(av.VideoCodecContext, context)
    rate = stream.average_rate or stream.guessed_rate
    return StreamFacts(
        kind="video",
        codec=codec,
        profile=video.profile,
        width=video.width,
        height=video.height,
        fps=float(rate) if rate and math.isfinite(rate) else None,
        frames=counted.get(stream.index, stream.frames) or None,
        duration_s=duration,
        pixel_format=video.pix_fmt,
        colour=_colour(video),
    )


def _colour(video: av.VideoCodecContext) -> dict[str, str]:
    tags = {
        "matrix": MATRICES.get(int(video.colorspace), str(int(video.colorspace))),
        "primaries": _tag(ColorPrimaries, int(video.color_primaries)),
        "transfer": _tag(ColorTrc, int(video.color_trc)),
        "range": _tag(ColorRange, int(video.color_range)).replace("mpeg", "limited").replace("jpeg", "full"),
    }
    return {name: value for name, value in tags.items() if value not in ("unspecified", str(UNSPECIFIED))}


def _tag(kind: type[ColorPrimaries] | type[ColorTrc] | type[ColorRange], value: int) -> str:
    return next((each.name.lower() for each in kind if int(each) == value), str(value))


def _profile_name(image: Image.Image) -> str | None:
    data = image.info.get("icc_profile")
    if not data:
        return None
    try:
        return ImageCms.getProfileName(ImageCms.ImageCmsProfile(ImageCms.core.profile_frombytes(data))).strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "damaged"


def _refusal(codec: Codec) -> str | None:
    try:
        context = cast(av.VideoCodecContext, av.CodecContext.create(codec.encoder, "w"))
        context.width = context.height = TEST_SIDE
        context.pix_fmt = codec.pixel_format
        context.time_base = Fraction(1, 25)
        context.framerate = Fraction(25)
        context.options = dict(CODEC_OPTIONS[codec.name])
        context.open()
    except (FFmpegError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None

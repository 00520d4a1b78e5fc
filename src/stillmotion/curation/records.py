"""What curation knows of a video, of its shots and of its clips.

Frames are numbered from 0 in the order in which they are shown; spans are inclusive at both ends. Times are seconds on
the video's own clock, from its first shown frame.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Literal

TransitionKind = Literal["cut", "dissolve", "fade", "wipe"]
# How a clip's frames came into its file: copied as they were, with a re-encoded head or tail, or re-encoded whole.
ClipMode = Literal["copy", "edges", "encode"]
Number = int | float | str | bool | None


@dataclasses.dataclass(frozen=True, slots=True)
class Transition:
    """The change from one shot to the next.

    `before` is the last frame that shows the old shot alone and `after` the first that shows the new one alone; a cut
    has `after == before + 1`. `confidence` is in [0, 1].
    """

    kind: TransitionKind
    before: int
    after: int
    confidence: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Frames `first` to `last`, both included."""

    first: int
    last: int

    @property
    def frames(self) -> int:
        return self.last - self.first + 1


@dataclasses.dataclass(frozen=True, slots=True)
class Video:
    """One video as it was found; sizes are those of the upright picture in pixels."""

    source: str  # relative to what was curated, with forward slashes, or the address
    sha256: str
    bytes: int
    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    rotation: int  # degrees clockwise by which the stored picture is turned to be upright: 0, 90, 180 or 270
    fps: float  # the mean rate
    frames: int
    duration_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """One clip of a video: where it lies there, and the file that holds it. Its scores stand in columns beside it."""

    id: str
    video: str  # the sha256 of the video
    source: str
    first: int
    last: int
    start_s: float
    duration_s: float
    fps: float
    width: int
    height: int
    mode: ClipMode
    sha256: str
    bytes: int

    @property
    def frames(self) -> int:
        return self.last - self.first + 1


# The closed list of reasons, and what each means. What another run could mend is in PASSING too.
REASONS: tuple[tuple[str, str], ...] = (
    ("missing", "the file is not there any more"),
    ("unreadable", "the file or folder may not be read"),
    ("unreachable", "the address gave nothing"),
    ("changed", "the file changed while it was read"),
    ("too_large", "the file is larger than the settings allow"),
    ("empty", "the file has no bytes"),
    ("truncated", "the file ends before its video does"),
    ("corrupt", "the video is damaged"),
    ("not_media", "the file is no video"),
    ("no_video", "the file has sound or data, and no pictures"),
    ("unknown_codec", "nothing here decodes this codec"),
    ("zero_duration", "the video has no length"),
    ("too_many_pixels", "the frames are larger than the settings allow"),
    ("too_short", "no shot is as long as the shortest clip"),
    ("no_keyframe", "no clip can be cut without a keyframe, and encoding anew is off"),
    ("not_cut", "a clip could not be written as it was planned"),
    ("not_scored", "a clip could not be looked at"),
    ("no_scorer", "a network that scores or describes could not be used"),
    ("disk_full", "the disk is full"),
    ("out_of_memory", "the work needed more memory than there is"),
    ("timeout", "the work took longer than the settings allow"),
    ("crashed", "the process that worked on it died"),
)
# Not kept between runs: the next one tries again, perhaps with other limits.
PASSING = frozenset(
    {
        *("missing", "unreadable", "unreachable", "changed", "too_large"),
        *("no_scorer", "disk_full", "out_of_memory", "timeout", "crashed"),
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a video, or a part of it, gave nothing: `reason` is one word of REASONS, `detail` a sentence."""

    source: str
    stage: str
    reason: str
    detail: str


def clip_id(video: str, span: Span) -> str:
    """The name of a clip, the same wherever the video lies: the video's hash and the clip's frames."""
    return f"{video[:16]}-{span.first:07d}-{span.last:07d}"


def clip_row(clip: Clip) -> dict[str, Any]:
    """A clip as a row of the manifest, to which its scores are added."""
    return dataclasses.asdict(clip)


def digest(value: Any) -> str:
    """sha256 of plain values, through JSON with sorted keys: equal values have equal digests."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()

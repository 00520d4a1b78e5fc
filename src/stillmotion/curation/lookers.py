"""What looks at every clip of a run: which scorers the settings ask for, and how they are called together."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..config import to_tree
from ..errors import MediaError
from ..media.picked import read_frames
from .captions import MERGE, CaptionConfig, CocaCaption, captioner, coca_mark
from .dedup import Fingerprint
from .pretrained import Pretrained, folder_of, version_of
from .records import Clip, Failure, Number, digest
from .scorer import Look, Scorer
from .similarity import AestheticHead, Similarity, SimilarityConfig
from .stage import ONE_CORE, Needs
from .text_area import CraftText, TextArea, TextConfig

Columns = dict[str, Number | list[float]]
CAPTION = "caption."
CODE = "2"  # of all that ask networks: changes whenever the same weights could say something else
STRIPS = "strips"
STRIP_FRAMES, STRIP_HEIGHT, STRIP_QUALITY, STRIP_ASPECT = 5, 90, 78, 16 / 9
NETWORK_MB = 12_000  # main memory for a worker that loads somebody else's network


@dataclasses.dataclass(frozen=True, slots=True)
class Looker:
    """A scorer that is not made yet: weights are loaded where it works, and only there."""

    name: str
    version: str
    make: Callable[[], Scorer]
    needs: Needs = ONE_CORE
    # The captioners that it wants to have spoken before.
    hears: tuple[str, ...] = ()


class Strips:
    """Makes the pictures of the report; it has no columns."""

    name, version, frames = STRIPS, "1", STRIP_FRAMES

    def score(self, look: Look) -> Mapping[str, Number | tuple[float, ...]]:
        """Nothing: `strip_of` is what it is for."""
        return {}


def local_lookers(text: TextConfig | None) -> tuple[Looker, ...]:
    """Those that are cheap enough to share one decode on a processor. Raises StillmotionError for a missing plug-in."""
    return (
        *((Looker(TextArea.name, _text_version(text), functools.partial(TextArea, text)),) if text is not None else ()),
        Looker(Fingerprint.name, Fingerprint.version, Fingerprint),
        Looker(Strips.name, Strips.version, Strips),
    )


def _text_version(cfg: TextConfig) -> str:
    if isinstance(cfg, CraftText):
        return digest([CODE, cfg.kind, _network_mark(cfg.network)])[:16]
    return TextArea(cfg).version


def network_lookers(captions: Sequence[CaptionConfig], similarity: SimilarityConfig | None) -> tuple[Looker, ...]:
    """Those that ask networks from the hub or a folder, each after those that it hears. Raises HubError."""
    found: list[Looker] = []
    for cfg in sorted(captions, key=lambda each: each.kind == "summary"):
        device = cfg.device if isinstance(cfg, CocaCaption) else cfg.network.device
        heard = tuple(looker.name for looker in found) if cfg.kind == "summary" else ()
        version = _caption_version(cfg)
        found.append(Looker(f"{CAPTION}{cfg.kind}", version, functools.partial(captioner, cfg), _needs(device), heard))
    if similarity is not None:
        heard = tuple(looker.name for looker in found)
        version = _similarity_version(similarity)
        make = functools.partial(Similarity, similarity)
        found.append(Looker(Similarity.name, version, make, _needs(similarity.clip.device), heard))
    return tuple(found)


# Versions say what weights hold and not where they lie, nor on which device they run, so that a manifest made on
# another machine has the same hash.
def _caption_version(cfg: CaptionConfig) -> str:
    settings = {name: value for name, value in to_tree(cfg).items() if name not in ("network", "weights", "device")}
    mark = coca_mark(cfg) if isinstance(cfg, CocaCaption) else _network_mark(cfg.network)
    return digest([CODE, settings, mark, MERGE if cfg.kind == "summary" else ""])[:16]


def _similarity_version(cfg: SimilarityConfig) -> str:
    head = None if cfg.aesthetic is None else AestheticHead(cfg.aesthetic)
    if head is not None:
        head.check_fits(folder_of(cfg.clip))
    return digest([CODE, _network_mark(cfg.clip), head and head.version])[:16]


def _network_mark(network: Pretrained) -> list[str]:
    return [version_of(folder_of(network)), network.dtype]


def _needs(device: str) -> Needs:
    return Needs(gpus=0.0 if device == "cpu" else 1.0, memory_mb=NETWORK_MB)


_MADE: dict[tuple[str, str], Scorer] = {}


def made(looker: Looker) -> Scorer:
    """The scorer itself; a worker keeps what it has loaded."""
    key = (looker.name, looker.version)
    if key not in _MADE:
        _MADE[key] = looker.make()
    return _MADE[key]


@dataclasses.dataclass(slots=True)
class Scored:
    """The columns of a video's clips by scorer and clip, why others have none, and each clip's strip as a JPEG."""

    columns: dict[str, dict[str, Columns]]
    failures: list[Failure]
    strips: dict[str, bytes]


def score_clips(
    scorers: Sequence[Scorer],
    clips: Sequence[Clip],
    file_of: Callable[[Clip], Path],
    said: Mapping[str, Mapping[str, str]],
) -> Scored:
    """Show every clip to all scorers, with one decode. `said` has captions by clip and captioner."""
    found = Scored({scorer.name: {} for scorer in scorers}, [], {})
    for clip in clips:
        path = file_of(clip)
        try:
            frames = _frames(clip, path, scorers)
        except MediaError as error:
            names = ", ".join(scorer.name for scorer in scorers)
            detail = f"Clip {clip.id} has no {names}: {error}"
            found.failures.append(Failure("", "score", "not_scored", detail.replace(str(path), "it")))
            continue
        for scorer in scorers:
            look = Look(clip, path, frames[scorer.name], said.get(clip.id, {}))
            found.columns[scorer.name][clip.id] = plain(scorer.score(look))
        if STRIPS in frames:
            found.strips[clip.id] = strip_of(frames[STRIPS])
    return found


def _frames(clip: Clip, path: Path, scorers: Sequence[Scorer]) -> dict[str, UInt8[np.ndarray, "k h w 3"]]:
    wanted = {scorer.name: even(clip.frames, scorer.frames) for scorer in scorers}
    numbers = sorted({number for each in wanted.values() for number in each})
    frames = read_frames(path, numbers)
    return {name: frames[[numbers.index(number) for number in each]] for name, each in wanted.items()}


def even(frames: int, count: int) -> list[int]:
    """The numbers of `count` evenly spaced frames of a clip, the first and the last among them; one is the middle."""
    if count == 1:
        return [(frames - 1) // 2]
    return [round(each) for each in np.linspace(0, frames - 1, count)]


def strip_of(frames: UInt8[np.ndarray, "k h w 3"]) -> bytes:
    """Moments of a clip side by side, small, as a JPEG."""
    width = max(1, round(STRIP_HEIGHT * min(STRIP_ASPECT, frames.shape[2] / frames.shape[1])))
    strip = Image.new("RGB", ((width + 2) * len(frames) - 2, STRIP_HEIGHT))
    for index, frame in enumerate(frames):
        picture = Image.fromarray(frame)
        picture.thumbnail((width, STRIP_HEIGHT), Image.Resampling.BILINEAR, reducing_gap=2)
        top, left = (STRIP_HEIGHT - picture.height) // 2, (width - picture.width) // 2
        strip.paste(picture, (index * (width + 2) + left, top))
    data = io.BytesIO()
    strip.save(data, "JPEG", quality=STRIP_QUALITY)
    return data.getvalue()


def plain(columns: Mapping[str, Any]) -> Columns:
    """Numbers as JSON has them: what is no number becomes None, and numpy's own types become Python's."""
    return {name: _plain(value) for name, value in columns.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, (tuple, list)):
        return [float(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value

"""Clips of a video: the files that hold the frames of its shots, without a foreign one."""

from __future__ import annotations

import bisect
import dataclasses
import errno
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

from ..config import checked
from ..errors import MediaError, StillmotionError
from ..evaluation.opencv import cv2
from ..files import atomic_path
from ..media.clip import SPLICED, Encoded, Run, Splice, copyable, suffix_of_clip, write_clips
from ..media.packets import FrameMap, map_frames
from ..media.recode import DecodedFrame, EdgeEncoder, WholeEncoder, decoded
from ..media.scan import opened, sight_of, sights, video_stream
from .clip_plan import ClipConfig as ClipConfig
from .clip_plan import Loss as Loss
from .clip_plan import footage_loss as footage_loss
from .clip_plan import plan_clips as plan_clips
from .observe import Observed, observe
from .prints import PrintObserver, print_of
from .records import Clip, ClipMode, Failure, Span, Video, clip_id

STAGE = "clip"
BATCH = 64  # clips that are cut in one reading of a video: their re-encoded edges are in memory together
GRID = 16  # a re-encoded frame is compared with its source on so many cells a side
GRID_TOLERANCE = 6.0  # grey levels in the mean; the next frame of a moving picture is within it, another shot is not

Grid: TypeAlias = UInt8[np.ndarray, "16 16"]


def cut_clips(
    path: Path, video: Video, planned: Sequence[Span], observed: Observed, cfg: ClipConfig, folder: Path
) -> tuple[list[Clip], list[Failure]]:
    """Write the file of each planned clip into `folder`, named by the clip's id, and say why others were not.

    The columns of a PrintObserver are taken from `observed`, or from another pass where it has none. A clip that was
    copied and does not show the video's own frames is encoded whole instead. Raises ConfigError, and nothing else but
    what a Watch does.
    """
    cfg = checked(cfg)
    if not planned:
        return [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _Cutter(path, video, observed, cfg, folder).cut(planned)
    except MediaError as error:
        return [], [Failure(video.source, STAGE, "corrupt", str(error))]
    except OSError as error:
        detail = f"{folder} cannot be written: {error.strerror}; expected a folder with room."
        return [], [Failure(video.source, STAGE, _reason(error), detail)]


def clip_file(folder: Path, clip: Clip) -> Path:
    """The file of a clip in the folder that `cut_clips` wrote to: .mp4, or .mkv where mp4 cannot hold its codec."""
    paths = [folder / f"{clip.id}{suffix}" for suffix in (".mp4", ".mkv")]
    return next((path for path in paths if path.exists()), paths[0])


@dataclasses.dataclass(slots=True)
class _Job:
    """One clip on its way."""

    span: Span
    mode: ClipMode
    wanted: Span  # before it was cut to what can be copied
    run: Run | None = None

    def encode(self) -> None:
        """Give copying up."""
        self.mode, self.span = "encode", self.wanted


class _Refused(Exception):
    """A source frame is not what the pass saw."""


class _Cutter:
    def __init__(self, path: Path, video: Video, observed: Observed, cfg: ClipConfig, folder: Path) -> None:
        if "prints.packet" not in observed.columns:
            observed = observe(path, [PrintObserver()])
        self._path, self._video, self._cfg, self._folder = path, video, cfg, folder
        self._prints = observed.columns["prints.value"]
        self._frames = map_frames(path, observed.columns["prints.packet"], observed.times_s)
        self._clips: list[Clip] = []
        self._failures: list[Failure] = []

    def cut(self, planned: Sequence[Span]) -> tuple[list[Clip], list[Failure]]:
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".cut-") as drafts:
            for spans in _readings(planned):
                jobs = [job for span in spans if (job := self._job(span)) is not None]
                copies = [job for job in jobs if job.run is not None]
                for start in range(0, len(copies), BATCH):
                    self._copy(copies[start : start + BATCH], Path(drafts))
                self._encode([job for job in jobs if job.mode == "encode"], Path(drafts))
        return sorted(self._clips, key=lambda clip: (clip.first, clip.last)), self._failures

    def _job(self, span: Span) -> _Job | None:
        """How a span is to be cut; None where that gives no clip."""
        cfg, frames = self._cfg, self._frames
        if cfg.mode == "encode" or len(self._kept(span)) < span.frames:
            return _Job(span, "encode", span)
        run = copyable(frames, span.first, span.last)
        snapped = Span(run.first, run.last) if run else None
        kept_s = self._seconds(snapped) if snapped else 0.0
        if run and snapped and kept_s >= cfg.min_s - 1e-6:
            if cfg.mode == "copy" or 1 - kept_s / self._seconds(span) <= cfg.max_loss:
                return _Job(snapped, "copy", span, run)
        elif cfg.mode == "copy":
            reason, found = ("too_short", f"{kept_s:.2f} s") if run else ("no_keyframe", "nothing")
            self._fail(span, reason, f"have {found} that can be copied; expected at least {cfg.min_s:g} s.")
            return None
        closed = copyable(frames, span.first, span.last, is_closed=True) if frames.codec == "h264" else run
        if frames.codec not in SPLICED or closed is None:
            return _Job(span, "encode", span)
        return _Job(span, "edges", span, closed)

    def _kept(self, span: Span) -> list[int]:
        """The frames of a span that the rate leaves: those that are shown when a slower clock ticks."""
        numbers = list(range(span.first, span.last + 1))
        if self._cfg.fps is None or self._cfg.fps >= span.frames / self._seconds(span) * (1 - 1e-3):
            return numbers
        times = (self._frames.ticks[span.first : span.last + 1] - self._frames.ticks[span.first]) * float(
            self._frames.time_base
        )
        # Half a frame of a thousand a second is the tolerance: times are rounded to ticks.
        turns = np.floor((times + 5e-4) * self._cfg.fps)
        return [number for number, turn, before in zip(numbers, turns, [-1.0, *turns], strict=False) if turn > before]

    def _seconds(self, span: Span) -> float:
        return max(1, self._frames.duration(span.first, span.last)) * float(self._frames.time_base)

    def _fail(self, span: Span, reason: str, detail: str) -> None:
        source = self._video.source
        self._failures.append(Failure(source, STAGE, reason, f"frames {span.first} to {span.last} {detail}"))

    def _copy(self, jobs: Sequence[_Job], drafts: Path) -> None:
        """Write copied clips; a clip that turns out wrong is left to be encoded whole."""
        edges, grids = self._edges([job for job in jobs if job.mode == "edges"])
        ready = [job for job in jobs if job.run and (job.mode == "copy" or job.span in edges)]
        suffix = suffix_of_clip(self._frames.codec)
        work = []
        for job in ready:
            assert job.run is not None
            head, tail = edges.get(job.span, ((), ()))
            work.append((Splice(job.run, head, tail), drafts / f"{job.span.first}{suffix}"))
        try:
            outcomes = write_clips(self._path, self._frames, work)
        except (OSError, MediaError) as error:
            self._stop(jobs, error)
            return
        for job in jobs:
            if job not in ready:
                job.encode()
        for job, (_, draft), outcome in zip(ready, work, outcomes, strict=True):
            assert job.run is not None
            copied = range(job.run.first, job.run.last + 1)
            if outcome is None and self._shows(draft, list(range(job.span.first, job.span.last + 1)), copied, grids):
                self._publish(job, draft, job.span.frames)
            else:
                job.encode()
            draft.unlink(missing_ok=True)

    def _edges(
        self, jobs: Sequence[_Job]
    ) -> tuple[dict[Span, tuple[Sequence[Encoded], Sequence[Encoded]]], dict[int, Grid]]:
        """The re-encoded heads and tails of these clips, and what each of their frames looks like."""
        encoders: dict[tuple[Span, bool], EdgeEncoder] = {}
        owners: dict[int, tuple[Span, bool]] = {}
        spans = []
        for job in jobs:
            assert job.run is not None
            for first, last, is_tail in (
                (job.span.first, job.run.first - 1, False),
                (job.run.last + 1, job.span.last, True),
            ):
                encoders[job.span, is_tail] = EdgeEncoder(self._frames, self._cfg.rate_factor)
                owners |= dict.fromkeys(range(first, last + 1), (job.span, is_tail))
                spans += [(first, last)] * (first <= last)
        refused: set[Span] = set()
        grids: dict[int, Grid] = {}
        for number, frame in decoded(self._path, self._frames, spans):
            span, is_tail = owners[number]
            try:
                grids[number] = _grid_of(self._check(number, frame))
                encoders[span, is_tail].add(number, frame)
            except (_Refused, MediaError):
                refused.add(span)
        ends = {key: encoder.finish() for key, encoder in encoders.items() if key[0] not in refused}
        return {
            job.span: (ends[job.span, False], ends[job.span, True]) for job in jobs if job.span not in refused
        }, grids

    def _check(self, number: int, frame: DecodedFrame) -> UInt8[np.ndarray, "h w"]:
        """The brightness of a source frame. Raises _Refused where it is not what the pass saw."""
        luma = sight_of(frame).luma
        if print_of(luma) != int(self._prints[number]):
            raise _Refused(f"frame {number} is not the same when it is decoded again")
        return luma

    def _encode(self, jobs: Sequence[_Job], drafts: Path) -> None:
        """Encode clips whole, in one reading of the video, and in another what the keyframes did not lead to."""
        again = self._encode_from(self._frames, jobs, drafts)
        for job in self._encode_from(self._frames.without_entries(), again, drafts) if again else ():
            detail = "cannot be decoded again as they were; expected a video that stays as it is."
            self._fail(job.span, "not_cut", detail)

    def _encode_from(self, frames: FrameMap, jobs: Sequence[_Job], drafts: Path) -> list[_Job]:
        starts = sorted((job.span.first, place) for place, job in enumerate(jobs))
        firsts = [first for first, _ in starts]

        def owner(item: tuple[int, DecodedFrame]) -> int:
            return starts[bisect.bisect_right(firsts, item[0]) - 1][1]

        refused = dict(enumerate(jobs))
        try:
            items = decoded(self._path, frames, [(job.span.first, job.span.last) for job in jobs])
            for place, own in itertools.groupby(items, key=owner):
                if self._encode_one(jobs[place], own, drafts / f"{place}.mp4"):
                    del refused[place]
        except (OSError, MediaError) as error:
            self._stop(jobs, error)
            return []
        return list(refused.values())

    def _encode_one(self, job: _Job, items: Iterable[tuple[int, DecodedFrame]], draft: Path) -> bool:
        """Whether nothing is left to do: False where the frames are not those of the pass."""
        kept = self._kept(job.span)
        keep, grids = set(kept), dict[int, Grid]()
        rotation, factor = self._video.rotation, self._cfg.rate_factor
        try:
            with WholeEncoder(self._frames, kept, draft, rotation, factor) as encoder:
                for number, frame in (item for item in items if item[0] in keep):
                    self._check(number, frame)
                    grids[number] = _grid_of(sight_of(encoder.add(number, frame)).luma)
                encoder.finish()
            if len(grids) < len(kept):
                return False
        except _Refused:
            return False
        except MediaError as error:
            self._fail(job.span, "not_cut", f"cannot be encoded: {error}")
        else:
            if self._shows(draft, kept, range(0), grids):
                self._publish(job, draft, len(kept))
            else:
                self._fail(job.span, "not_cut", "differ when they are encoded; expected the same pictures.")
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _shows(self, draft: Path, numbers: Sequence[int], copied: range, grids: Mapping[int, Grid]) -> bool:
        """Whether a file shows exactly these frames: those of `copied` to the bit, others nearly."""
        if not self._cfg.verify:
            return True
        seen = 0
        try:
            for sight in sights(draft):
                if (
                    seen == len(numbers)
                    or sight.is_corrupt
                    or not self._is_like(sight.luma, numbers[seen], copied, grids)
                ):
                    return False
                seen += 1
        except MediaError:
            return False
        return seen == len(numbers)

    def _is_like(self, luma: UInt8[np.ndarray, "h w"], number: int, copied: range, grids: Mapping[int, Grid]) -> bool:
        if number in copied:
            return print_of(luma) == int(self._prints[number])
        return number in grids and _is_near(_grid_of(luma), grids[number])

    def _publish(self, job: _Job, draft: Path, frames: int) -> None:
        video, span, seconds = self._video, job.span, self._seconds(job.span)
        width, height = self._size_of(job, draft)
        name = clip_id(video.sha256, span)
        with draft.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        clip = Clip(
            id=name,
            video=video.sha256,
            source=video.source,
            first=span.first,
            last=span.last,
            start_s=float(self._frames.ticks[span.first] * self._frames.time_base),
            duration_s=seconds,
            fps=frames / seconds,
            width=width,
            height=height,
            mode=job.mode,
            sha256=sha256,
            bytes=draft.stat().st_size,
        )
        try:
            with atomic_path(self._folder / f"{name}{draft.suffix}") as temporary:
                os.replace(draft, temporary)
        except StillmotionError as error:
            self._fail(span, "disk_full" if "disk is full" in str(error) else "not_cut", f"cannot be kept: {error}")
        else:
            self._clips.append(clip)

    def _size_of(self, job: _Job, draft: Path) -> tuple[int, int]:
        """Width and height of a clip's upright picture, which may be another than the video begins with."""
        with opened(draft) as container:
            stored = video_stream(container, draft).codec_context
            width, height = stored.width, stored.height
        # What was encoded whole is upright already.
        is_lying = self._video.rotation % 180 != 0 and job.mode != "encode"
        return (height, width) if is_lying else (width, height)

    def _stop(self, jobs: Sequence[_Job], error: OSError | MediaError) -> None:
        """Nothing more can be written, or read: the clips of `jobs` that are not done fail."""
        done = {(clip.first, clip.last) for clip in self._clips}
        reason = _reason(error) if isinstance(error, OSError) else "not_cut"
        for job in jobs:
            job.mode = "copy"  # not to be tried again
            if (job.span.first, job.span.last) not in done:
                self._fail(job.span, reason, f"cannot be written: {error}.")


def _readings(planned: Sequence[Span]) -> list[list[Span]]:
    """The spans in as few groups as it takes that none overlap in one: what is cut in one reading of a video."""
    groups: list[list[Span]] = []
    for span in sorted(set(planned), key=lambda span: (span.first, span.last)):
        fitting = (group for group in groups if group[-1].last < span.first)
        group = next(fitting, None)
        if group is None:
            groups.append(group := [])
        group.append(span)
    return groups


def _reason(error: OSError) -> str:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "disk_full" if is_full else "unreadable"


def _grid_of(luma: UInt8[np.ndarray, "h w"]) -> Grid:
    return cv2.resize(luma, (GRID, GRID), interpolation=cv2.INTER_AREA)


def _is_near(grid: Grid, other: Grid) -> bool:
    return float(np.abs(grid.astype(np.int16) - other).mean()) <= GRID_TOLERANCE

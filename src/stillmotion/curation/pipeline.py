"""The stages that make clips of a video, and one video's way through them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..config import config, to_tree
from ..errors import CheckpointError, HubError, MediaError, StillmotionError
from ..files import atomic_path
from .captions import CaptionConfig
from .clip_plan import ClipConfig, footage_loss, plan_clips
from .clipping import clip_file, cut_clips
from .dedup import DuplicateConfig
from .identify import identify
from .ledger import Ledger, first_refusal, read_json, write_json
from .lookers import CAPTION, STRIPS, Looker, local_lookers, made, network_lookers, plain, score_clips
from .observe import Observed, observe
from .prints import PrintObserver
from .records import PASSING, Clip, Failure, Span, Transition, Video, digest
from .samples import VERSION as SAMPLES_VERSION
from .samples import SampleConfig, SampleObserver, span_scores
from .shot_network import WEIGHTS as SHOT_WEIGHTS
from .shots import ShotConfig, ShotObserver, find_transitions, shots_between
from .similarity import SimilarityConfig
from .sources import Source, fetch
from .stage import Refused, Stage, Unit, families, keys_of, legs_of
from .text_area import OwnText, TextConfig

SCAN, SHOTS, CLIPS, SAMPLES = "scan", "shots", "clips", "samples"
IDENTIFY = "identify"
SCORES = "scores.json"


@config
class CurationConfig:
    """Everything that decides which clips come out, and what is known of each."""

    shots: Annotated[ShotConfig, Field(description="How shots are found.")] = ShotConfig()
    clips: Annotated[ClipConfig, Field(description="How shots become clips.")] = ClipConfig()
    samples: Annotated[SampleConfig, Field(description="How often motion and picture are looked at.")] = SampleConfig()
    text: Annotated[TextConfig | None, Field(description="What finds text in frames; null looks for none.")] = OwnText()
    buckets: Annotated[
        Literal["linear", "empirical"],
        Field(description="How motion becomes a bucket: by its speed, or by the share of clips that move less."),
    ] = "linear"
    captions: Annotated[
        tuple[CaptionConfig, ...], Field(description="Networks that describe each clip; none by default.")
    ] = ()
    similarity: Annotated[
        SimilarityConfig | None, Field(description="CLIP, which compares captions with frames; none by default.")
    ] = None
    duplicates: Annotated[
        DuplicateConfig | None, Field(description="How near-duplicates are found; null looks for none.")
    ] = DuplicateConfig()
    max_bytes: Annotated[int, Field(gt=0, description="Larger files are refused.")] = 100 * 1024**3

    def __post_init__(self) -> None:
        kinds = [each.kind for each in self.captions]
        twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
        if twice is not None:
            raise ValueError(f"there are {kinds.count(twice)} captioners of the kind {twice}; expected one of each.")


@functools.lru_cache(maxsize=4)
def stages_of(cfg: CurationConfig) -> tuple[Stage, ...]:
    """Every stage of one video, each after those that it depends on. Raises HubError where a network is not there."""
    networks = network_lookers(cfg.captions, cfg.similarity)
    return (*own_stages_of(cfg), *(_looking(looker, (looker,), "") for looker in networks))


@functools.lru_cache(maxsize=4)
def own_stages_of(cfg: CurationConfig) -> tuple[Stage, ...]:
    """Those that ask no network of somebody else's: they make the clips and their pictures."""
    shots, clips, samples = to_tree(cfg.shots), to_tree(cfg.clips), to_tree(cfg.samples)
    # What the pass itself depends on; thresholds move without it.
    watched = {name: value for name, value in shots["detector"].items() if name in ("kind", "strides")}
    weights = hashlib.sha256(SHOT_WEIGHTS.read_bytes()).hexdigest()[:12]
    local = local_lookers(cfg.text)
    return (
        Stage(SCAN, f"2-{SAMPLES_VERSION}-{weights}", [watched, samples], (), functools.partial(_scan, cfg)),
        Stage(SHOTS, "3", shots, (SCAN,), functools.partial(_shots, cfg)),
        Stage(CLIPS, "2", clips, (SCAN, SHOTS), functools.partial(_clips, cfg)),
        Stage(SAMPLES, SAMPLES_VERSION, None, (SCAN, CLIPS), _samples),
        # They are cheap, and share one decode.
        *(_looking(looker, local, "local") for looker in local),
    )


def _looking(looker: Looker, own: Sequence[Looker], family: str) -> Stage:
    after = (CLIPS, *looker.hears)
    run = functools.partial(_score, own)
    return Stage(looker.name, looker.version, None, after, run, looker.needs, family)


def _scan(cfg: CurationConfig, unit: Unit, folders: Mapping[str, Path]) -> None:
    observed = observe(unit.path, [ShotObserver(cfg.shots), SampleObserver(cfg.samples), PrintObserver()])
    columns = {"times_s": observed.times_s, "is_key": observed.is_key, "is_corrupt": observed.is_corrupt}
    arrays: dict[str, Any] = columns | dict(observed.columns)
    np.savez(folders[SCAN] / "scan.npz", **arrays)


def read_scan(folder: Path) -> Observed:
    """What the pass over a video found."""
    with np.load(folder / "scan.npz") as found:
        own = {name: found[name] for name in ("times_s", "is_key", "is_corrupt")}
        columns = {name: found[name] for name in found.files if name not in own}
        return Observed(**own, columns=columns)


def _shots(cfg: CurationConfig, unit: Unit, folders: Mapping[str, Path]) -> None:
    observed = read_scan(unit.results[SCAN])
    transitions = find_transitions(observed, cfg.shots)
    shots = shots_between(transitions, observed.frames)
    found = {"transitions": _trees(transitions), "shots": _trees(shots)}
    write_json(folders[SHOTS] / "shots.json", found)


def read_shots(folder: Path) -> tuple[tuple[Span, ...], tuple[Transition, ...]]:
    """The shots of a video and what lies between them."""
    found = read_json(folder / "shots.json")
    return tuple(Span(**each) for each in found["shots"]), tuple(Transition(**each) for each in found["transitions"])


def _clips(cfg: CurationConfig, unit: Unit, folders: Mapping[str, Path]) -> None:
    observed = read_scan(unit.results[SCAN])
    shots, transitions = read_shots(unit.results[SHOTS])
    planned = plan_clips(shots, transitions, observed, cfg.clips)
    clips, failures = cut_clips(unit.path, unit.video, planned, observed, cfg.clips, folders[CLIPS])
    lost_s = _damaged_s(shots, transitions, observed, cfg.clips, planned)
    if lost_s > 0:
        failures.append(Failure("", CLIPS, "corrupt", f"Damage costs {lost_s:.2f} s of what would be clips."))
    elif not planned:
        failures = [Failure("", CLIPS, "too_short", f"No shot lasts {cfg.clips.min_s:g} s.")]
    passing = next((each for each in failures if each.reason in PASSING), None)
    if passing is not None:
        raise Refused(passing.reason, passing.detail)
    told = [dataclasses.replace(each, detail=_told(each.detail, unit.path)) for each in failures]
    write_json(folders[CLIPS] / "clips.json", {"clips": _trees(clips), "failures": _trees(told)})


def _damaged_s(
    shots: Sequence[Span],
    transitions: Sequence[Transition],
    observed: Observed,
    cfg: ClipConfig,
    planned: Sequence[Span],
) -> float:
    """Seconds that would be in clips of the same video without damage, and are not."""
    if not observed.is_corrupt.any():
        return 0.0
    sound = dataclasses.replace(observed, is_corrupt=np.zeros_like(observed.is_corrupt))
    lost = [footage_loss((), spans, observed).kept_s for spans in (plan_clips(shots, transitions, sound, cfg), planned)]
    return lost[0] - lost[1]


def read_clips(folder: Path, source: str) -> tuple[list[Clip], list[Failure]]:
    """The clips of a video, and why others were not cut."""
    found = read_json(folder / "clips.json")
    clips = [Clip(**(each | {"source": source})) for each in found["clips"]]
    return clips, [Failure(**(each | {"source": source})) for each in found["failures"]]


def _samples(unit: Unit, folders: Mapping[str, Path]) -> None:
    observed = read_scan(unit.results[SCAN])
    clips, _ = read_clips(unit.results[CLIPS], "")
    columns = {clip.id: plain(span_scores(observed, Span(clip.first, clip.last), unit.video)) for clip in clips}
    # A clip may be shorter than the time between two samples, or lie where the clock went back.
    blind = [clip for clip in clips if columns[clip.id]["picture.sharpness"] is None]
    details = [f"Frames {clip.first} to {clip.last} have no sample: motion and picture are unknown." for clip in blind]
    failures = [Failure("", SAMPLES, "not_scored", detail) for detail in details]
    write_json(folders[SAMPLES] / SCORES, {"columns": columns, "failures": _trees(failures)})


def _score(lookers: Sequence[Looker], unit: Unit, folders: Mapping[str, Path]) -> None:
    clips, _ = read_clips(unit.results[CLIPS], "")
    scorers = [made(looker) for looker in lookers if looker.name in folders]
    heard = {name: unit.results[name] for looker in lookers for name in looker.hears}
    found = score_clips(scorers, clips, functools.partial(clip_file, unit.results[CLIPS]), _captions(heard))
    for name, columns in found.columns.items():
        write_json(folders[name] / SCORES, {"columns": columns, "failures": _trees(found.failures)})
    for clip, strip in found.strips.items():
        (folders[STRIPS] / f"{clip}.jpg").write_bytes(strip)


def _captions(folders: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """What captioners said, by clip and by the captioner's name without its beginning."""
    said: dict[str, dict[str, str]] = {}
    for name, folder in folders.items():
        for clip, columns in read_json(folder / SCORES)["columns"].items():
            said.setdefault(clip, {})[name.removeprefix(CAPTION)] = str(columns.get(name) or "")
    return said


def columns_of(
    ledger: Ledger, stages: Sequence[Stage], keys: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], list[Failure]]:
    """Every score of a video's clips, by the clip's id, and why some have none."""
    found: dict[str, dict[str, Any]] = {}
    failures: dict[Failure, None] = {}
    for stage in stages:
        path = ledger.folder(stage.name, keys[stage.name]) / SCORES
        if path.is_file():
            result = read_json(path)
            failures |= dict.fromkeys(Failure(**each) for each in result["failures"])
            for clip, columns in result["columns"].items():
                found.setdefault(clip, {}).update(columns)
    return found, list(failures)


def versions_of(stages: Sequence[Stage]) -> dict[str, str]:
    """The version of each stage, which the manifest holds; settings that matter are part of it."""
    return {stage.name: f"{stage.version}-{digest(stage.settings)[:12]}" for stage in stages if stage.name != STRIPS}


def identity(ledger: Ledger, source: Source) -> Video | Failure | None:
    """What an earlier visit found a source to be, under the source's name; None where none did."""
    found = ledger.noted(IDENTIFY, identity_key(source))
    if found is None:
        return None
    record = Failure if "reason" in found else Video
    return record(**(found | {"source": source.name}))


def note_identity(ledger: Ledger, source: Source, found: Video | Failure) -> None:
    """Keep what a source is."""
    ledger.note(IDENTIFY, identity_key(source), dataclasses.asdict(found) | {"source": ""})


def _trees(values: Sequence[Any]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(value) for value in values]


def _told(detail: str, path: Path) -> str:
    """A sentence without the place of the file, which is another one on every machine."""
    text = detail.replace(str(path), "the video")
    if path.suffix:  # a name like `e` or `is` would be found everywhere
        text = re.sub(rf"(?<![\w.]){re.escape(path.name)}(?!\w)", "the video", text)
    return text[:1].upper() + text[1:]


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One source's visit to a worker: its way through one leg of the stages."""

    source: Source
    leg: int


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What a visit came to. `computed` is the number of stages that were not there yet."""

    sha256: str | None
    duration_s: float = 0.0
    clips: int = 0
    computed: int = 0
    failures: tuple[Failure, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Curator:
    """Takes one source through one leg, and commits each result; the work that engines hand to their workers."""

    root: Path
    cfg: CurationConfig

    def __call__(self, step: Step) -> Done:
        with contextlib.ExitStack() as stack:
            try:
                return self._work(step, stack)
            except StillmotionError as error:
                return Done(None, failures=(failure_of(error, step.source, IDENTIFY),))

    def _work(self, step: Step, stack: contextlib.ExitStack) -> Done:
        place = _Place(step.source, self.root, self.cfg.max_bytes, stack)
        known = identity(Ledger(self.root), step.source)
        if known is None:
            known = identified(place.path, step.source, self.cfg.max_bytes)
            if isinstance(known, Video) or known.reason not in PASSING:
                note_identity(Ledger(self.root), step.source, known)
        if isinstance(known, Failure):
            return Done(None, failures=(known,))
        return self._through(step, known, place)

    def _through(self, step: Step, video: Video, place: _Place) -> Done:
        ledger, stages = Ledger(self.root), stages_of(self.cfg)
        keys = keys_of(stages, video.sha256)
        results = {name: ledger.folder(name, key) for name, key in keys.items()}
        nameless = dataclasses.replace(video, source="")
        computed, failures = 0, []
        for family in families(legs_of(stages)[step.leg]):
            pending = [stage for stage in family if not ledger.has(stage.name, keys[stage.name])]
            needed = sorted({name for stage in pending for name in stage.after})
            if not pending or first_refusal(ledger, needed, keys):
                continue
            computed += len(pending)
            failure = self._compute(pending, Unit(place.path, nameless, results), keys, step.source)
            if failure is not None:
                failures.append(dataclasses.replace(failure, source=video.source))
                break
        return Done(video.sha256, video.duration_s, _clips_made(ledger, keys), computed, tuple(failures))

    def _compute(self, pending: list[Stage], unit: Unit, keys: Mapping[str, str], source: Source) -> Failure | None:
        """Run neighbours of one family; a failure that lasts is recorded, one that may pass is returned alone."""
        ledger = Ledger(self.root)
        try:
            with ledger.committing({stage.name: keys[stage.name] for stage in pending}) as folders:
                try:
                    pending[0].run(unit, folders)
                finally:
                    check_unchanged(source)  # else another content would stand under this one's key
        except StillmotionError as error:
            failure = failure_of(error, Source("", str(unit.path)), pending[0].name)
            if failure.reason not in PASSING:
                for stage in pending:
                    ledger.refuse(stage.name, keys[stage.name], dataclasses.replace(failure, stage=stage.name))
            return failure
        return None


def finished(ledger: Ledger, stages: Sequence[Stage], step: Step) -> Done | None:
    """What a visit would find already done, without any work; None where there is something to do."""
    video = identity(ledger, step.source)
    if video is None:
        return None
    if isinstance(video, Failure):
        return Done(None, failures=(video,))
    keys = keys_of(stages, video.sha256)
    refusal = first_refusal(ledger, list(keys), keys)
    names = [stage.name for stage in legs_of(stages)[step.leg]]
    if refusal is None and not all(ledger.has(name, keys[name]) for name in names):
        return None
    failures = () if refusal is None else (dataclasses.replace(refusal, source=step.source.name),)
    return Done(video.sha256, video.duration_s, _clips_made(ledger, keys), 0, failures)


def _clips_made(ledger: Ledger, keys: Mapping[str, str]) -> int:
    if not ledger.has(CLIPS, keys[CLIPS]) or ledger.refusal(CLIPS, keys[CLIPS]) is not None:
        return 0
    return len(read_clips(ledger.folder(CLIPS, keys[CLIPS]), "")[0])


class _Place:
    """Where a source's bytes are on this machine; a remote one is fetched when it is asked for, and removed after."""

    def __init__(self, source: Source, root: Path, max_bytes: int, stack: contextlib.ExitStack) -> None:
        self._source, self._root, self._max_bytes, self._stack = source, root, max_bytes, stack
        self._path: Path | None = None if source.is_remote else Path(source.place)

    @property
    def path(self) -> Path:
        if self._path is None:
            name = digest([self._source.place])
            target = self._root / "fetched" / f"{name[:32]}{Path(self._source.name).suffix[:8]}"
            with atomic_path(target) as temporary:
                fetch(self._source, temporary, self._max_bytes)
            self._stack.callback(target.unlink, missing_ok=True)
            self._path = target
        return self._path


def identity_key(source: Source) -> str:
    """The key under which a source's content is known: a file that was touched is read again."""
    return digest([source.place, source.bytes, source.stamp, 1])


def identified(path: Path, source: Source, max_bytes: int) -> Video | Failure:
    """What a file is, or why it is none that can be curated."""
    found = identify(path, source.name, max_bytes)
    if not isinstance(found, Failure):
        check_unchanged(source)
    if isinstance(found, Failure):
        return dataclasses.replace(found, detail=_told(found.detail, path))
    return found


def check_unchanged(source: Source) -> None:
    """Raise Refused unless a local file is what it was when it was listed."""
    if source.is_remote or source.bytes is None:
        return
    try:
        status = Path(source.place).stat()
    except OSError:
        raise Refused("missing", "The file is not there any more.") from None
    if (status.st_size, f"{status.st_mtime_ns}") != (source.bytes, source.stamp):
        raise Refused("changed", "The file changed while it was worked on; expected one that rests.")


def failure_of(error: StillmotionError, source: Source, stage: str) -> Failure:
    """The row that an error of a stage becomes."""
    detail = _told(str(error), Path(source.place))
    if isinstance(error, Refused):
        return Failure(source.name, stage, error.reason, detail)
    reason = "corrupt" if isinstance(error, MediaError) else "crashed"
    reason = "no_scorer" if isinstance(error, CheckpointError | HubError) else reason
    if "disk is full" in detail:
        reason, detail = "disk_full", "The disk is full; nothing was left behind."
    return Failure(source.name, stage, reason, detail)

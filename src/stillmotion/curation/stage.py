"""A stage: a pure function from one video and earlier results to files, with a key that says what it depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import StillmotionError
from .records import Video, digest


class Refused(StillmotionError):
    """A stage gives nothing for this video: `reason` is one word of `records.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Needs:
    """What one run of a stage takes from a machine: processor cores, graphics cards, main memory."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_mb: int = 1500


ONE_CORE = Needs()


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """One video's turn: its file on this machine, what is known of it (without a name), the results so far."""

    path: Path
    video: Video
    results: Mapping[str, Path]


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """A named, versioned step.

    `run` writes files into the folder that it is given under the stage's name. It must depend on nothing but the video,
    the results of `after` and `settings`, which are plain values. Neighbours with the same `family` share one call of
    `run`, with a folder for each of them that is still to be done, so that they can share a decode.
    """

    name: str
    version: str
    settings: Any
    after: tuple[str, ...]
    run: Callable[[Unit, Mapping[str, Path]], None]
    needs: Needs = ONE_CORE
    family: str = ""


def told(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Stages as plain values: all that their keys and legs depend on."""
    return [
        {
            "name": stage.name,
            "version": stage.version,
            "settings": stage.settings,
            "after": list(stage.after),
            "gpus": stage.needs.gpus,
        }
        for stage in stages
    ]


def remembered(values: Sequence[Mapping[str, Any]]) -> tuple[Stage, ...]:
    """Stages of which `told` told: they have keys, and are not run."""

    def run(unit: Unit, folders: Mapping[str, Path]) -> None:
        raise AssertionError("a remembered stage is not run")

    return tuple(
        Stage(each["name"], each["version"], each["settings"], tuple(each["after"]), run, Needs(gpus=each["gpus"]))
        for each in values
    )


def keys_of(stages: Sequence[Stage], sha256: str) -> dict[str, str]:
    """The key of every stage for a video of this content: equal keys stand for equal results.

    A stage's key covers those that it depends on, so that a change reaches exactly what it concerns.
    """
    keys: dict[str, str] = {}
    for stage in stages:
        before = [keys[name] for name in stage.after]
        keys[stage.name] = digest([sha256, stage.name, stage.version, stage.settings, before])
    return keys


def legs_of(stages: Sequence[Stage]) -> list[tuple[Stage, ...]]:
    """Stages in order, parted where the need of a graphics card begins or ends: each leg is one visit to a worker."""
    legs: list[list[Stage]] = []
    for stage in stages:
        if not legs or bool(legs[-1][0].needs.gpus) != bool(stage.needs.gpus):
            legs.append([])
        legs[-1].append(stage)
    return [tuple(leg) for leg in legs]


def needs_of(leg: Sequence[Stage]) -> Needs:
    """What a worker must have for all stages of a leg, one after the other."""
    return Needs(
        max(stage.needs.cpus for stage in leg),
        max(stage.needs.gpus for stage in leg),
        max(stage.needs.memory_mb for stage in leg),
    )


def families(stages: Sequence[Stage]) -> Iterator[tuple[Stage, ...]]:
    """Stages in order, neighbours of one family together."""
    group: list[Stage] = []
    for stage in stages:
        if group and (not stage.family or stage.family != group[-1].family):
            yield tuple(group)
            group = []
        group.append(stage)
    if group:
        yield tuple(group)

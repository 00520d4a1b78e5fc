"""Finished figures on disk: each is stored at once, so that a broken run goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillmotion.errors import UsageError
from stillmotion.files import atomic_path

from .figures import Experiment, Figure, Measured, Verdict, verdict

FILE = "bench.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Stamp:
    """What a stored figure has to share with the present run to stand for it."""

    source: str
    commit: str | None


class Results:
    """The figures of one machine. Raises UsageError where the file is there and is none of ours."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._document = _read(self.path)

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Every stored figure by name."""
        return self._document["rows"]

    @property
    def machine(self) -> dict[str, Any]:
        """Where they were measured."""
        return self._document["machine"]

    def has(self, experiment: Experiment, stamp: Stamp) -> bool:
        """Whether every figure of an experiment is there, measured on this source."""
        return all(self.rows.get(each.name, {}).get("source") == stamp.source for each in experiment.figures)

    def keep(
        self,
        experiment: Experiment,
        measured: Mapping[str, Measured],
        stamp: Stamp,
        machine: Mapping[str, Any],
        others: float | None = None,
    ) -> None:
        """Store the figures of one experiment, all or none. `others`: cores that other processes used meanwhile."""
        found = {each.name: _row(each, measured[each.name]) for each in experiment.figures}
        also = {"others_cores": others, **dataclasses.asdict(stamp)}
        rows = self.rows | {name: row | also for name, row in found.items()}
        self._document = {"machine": dict(machine), "rows": rows}
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self._document, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def verdict(self, figure: Figure) -> Verdict:
        """How a stored figure stands to the bounds of today."""
        value = self.rows[figure.name]["value"]
        return verdict(figure, math.nan if value is None else value)


def _row(figure: Figure, measured: Measured) -> dict[str, Any]:
    return {
        "title": figure.title,
        "unit": figure.unit,
        "value_is": figure.value_is,
        "ours": _number(measured.ours),
        "peer": _number(measured.peer),
        "value": _number(measured.value),
        "must": None if figure.must is None else str(figure.must),
        "aim": None if figure.aim is None else str(figure.aim),
        "verdict": verdict(figure, measured.value),
        "note": measured.note,
        "details": _plain(measured.details),
    }


def _number(value: float | None) -> float | None:
    """Six digits; nothing where it is no number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _plain(value: Any) -> Any:
    """What JSON can hold: nothing in the place of numbers that are none."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"machine": {}, "rows": {}}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); expected a file of results, or none.") from None
    if not (isinstance(document, dict) and isinstance(document.get("rows"), dict)):
        raise UsageError(f"{path} holds no figures; expected a file of results, or none.")
    return {"machine": document.get("machine", {}), "rows": document["rows"]}

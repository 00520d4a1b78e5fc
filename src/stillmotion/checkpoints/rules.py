"""Two-way key rules: what each of our tensors is called, and how it is laid out, in a foreign checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError

# same: as ours. transposed: their matrix is the transpose of ours. pointwise: our matrix is their 1x1 convolution.
Form = Literal["same", "transposed", "pointwise"]

SHOWN = 3  # names listed in a message before the count


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """`ours` is called `theirs`: a whole tensor name, or the path of a module, whose tensors it all covers.

    With several `ours`, their tensor holds all of them, one after another along its first axis.
    """

    ours: tuple[str, ...]
    theirs: str
    form: Form = "same"


class Ignored(NamedTuple):
    """A path in a foreign checkpoint that is left out on purpose, and why."""

    theirs: str
    reason: str


class Place(NamedTuple):
    """Where one of our tensors is: part `part` of `parts` of the foreign tensor `theirs`, laid out as `form`."""

    theirs: str
    form: Form
    part: int = 0
    parts: int = 1


def rule(ours: str, theirs: str, form: Form = "same") -> Rule:
    """The rule of one path for one path."""
    return Rule((ours,), theirs, form)


class Rules:
    """A table of rules: a tensor of ours that none covers is an error, one of theirs must be a place or `ignored`.

    The rule with the longest matching path wins. Paths match whole dotted names, so `up.1` does not cover `up.10`.
    """

    def __init__(self, table: Iterable[Rule], ignored: Sequence[Ignored] = ()) -> None:
        self.table = tuple(table)
        self.ignored = tuple(ignored)
        self._by_ours = {path: (found, i) for found in self.table for i, path in enumerate(found.ours)}

    def place(self, ours: str) -> Place:
        """Where our tensor `ours` is in the foreign layout. Raises CheckpointError where no rule covers it."""
        for path, rest in _paths(ours):
            if path in self._by_ours:
                found, part = self._by_ours[path]
                return Place(_join(found.theirs, rest), found.form, part, len(found.ours))
        raise CheckpointError(f"the tensor {ours} has no name in this layout; expected one that its rules cover.")

    def reason(self, theirs: str) -> str:
        """Why the foreign tensor `theirs` is left out, or an empty text."""
        paths = {path for path, _ in _paths(theirs)}
        return next((entry.reason for entry in self.ignored if entry.theirs in paths), "")

    def export(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Foreign names for our tensors; each holds its parts, in order, to be joined along the first axis.

        The tensors are views of ours where the layout allows it. Raises CheckpointError where a name has no rule or a
        part is missing.
        """
        parts: dict[str, dict[int, Tensor]] = {}
        counts: dict[str, int] = {}
        for ours, tensor in tensors.items():
            place = self.place(ours)
            parts.setdefault(place.theirs, {})[place.part] = to_theirs(tensor, place.form)
            counts[place.theirs] = place.parts
        short = [theirs for theirs, found in parts.items() if len(found) != counts[theirs]]
        if short:
            raise CheckpointError(f"{listed(short)} cannot be written: a part is missing; expected every part of each.")
        return {theirs: tuple(found[i] for i in sorted(found)) for theirs, found in parts.items()}


def to_theirs(tensor: Tensor, form: Form) -> Tensor:
    """Our tensor in their layout, as a view."""
    if form == "transposed":
        return tensor.T
    return tensor[:, :, None, None] if form == "pointwise" else tensor


def to_ours(tensor: Tensor, form: Form) -> Tensor:
    """Their tensor in our layout, as a view."""
    if form == "transposed":
        return tensor.T
    return tensor[:, :, 0, 0] if form == "pointwise" else tensor


def their_shape(ours: Sequence[int], place: Place) -> tuple[int, ...]:
    """The shape of the foreign tensor at `place` that holds one of ours of shape `ours`."""
    shape = tuple(to_theirs(torch.empty(tuple(ours), device="meta"), place.form).shape)
    return shape if place.parts == 1 else (place.parts * shape[0], *shape[1:])


def listed(names: Iterable[str]) -> str:
    """The first few names and the count of the others."""
    found = list(names)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def _paths(name: str) -> Iterable[tuple[str, str]]:
    """Every way to cut a dotted name in two, the longest front first."""
    cut = len(name)
    while cut > 0:
        yield name[:cut], name[cut + 1 :]
        cut = name.rfind(".", 0, cut)
    yield "", name


def _join(path: str, rest: str) -> str:
    return f"{path}.{rest}" if path and rest else path or rest

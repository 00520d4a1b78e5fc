"""Typed configuration: frozen dataclasses, YAML files merged left to right, `extends:`, and `a.b=value` overrides."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from .errors import ConfigError, UsageError, printable

T = TypeVar("T")
MAX_SHOWN = 80  # characters of a value in a sentence

# `Annotated[Euler | Heun, CHOICE]`: the literal field `kind` picks the class.
CHOICE = Field(discriminator="kind")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass with slots whose validated form refuses unknown keys."""
    made = dataclasses.dataclass(frozen=True, kw_only=True, slots=True)(cls)
    made.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return made


def load(cls: type[T], paths: Sequence[Path] = (), overrides: Sequence[str] = ()) -> T:
    """Merge YAML files left to right, then `a.b=value` overrides in order, and validate the result as `cls`.

    A file may name another one under `extends:` (relative to itself), whose values it refines. A section whose
    `kind` changes replaces the old section whole. Raises ConfigError with every bad key at once.
    """
    tree: dict[str, Any] = {}
    for path in paths:
        tree = _merge(tree, _read(Path(path), ()))
    for text in overrides:
        tree = _merge(tree, _parse_override(text))
    return parse(cls, tree, source=", ".join(map(str, paths)) or "the given settings")


def parse(cls: type[T], tree: dict[str, Any], source: str = "the given settings") -> T:
    """Validate a plain tree of values as `cls`; `source` is named in the ConfigError, unless it is empty."""
    try:
        return TypeAdapter(cls).validate_python(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, cls, source)) from None


def checked(value: T) -> T:
    """The same settings, validated: a constructor alone takes whatever it is given. Raises ConfigError."""
    fields = dataclasses.fields(value)  # type: ignore[arg-type]
    return parse(type(value), {field.name: getattr(value, field.name) for field in fields}, source="")


def check_sizes(value: Any, names: Sequence[str]) -> None:
    """Raise UsageError unless each of these fields is a whole number of at least 1, or a tuple of such numbers."""
    for name in names:
        size = getattr(value, name)
        entries = size if isinstance(size, (tuple, list)) else (size,)
        if not entries or any(not isinstance(entry, int) or entry < 1 for entry in entries):
            raise UsageError(f"{name} is {size}; expected whole numbers of at least 1.")


def to_tree(value: Any) -> dict[str, Any]:
    """The plain JSON-ready tree of a config, which `parse` turns back into an equal one."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def dump(value: Any) -> str:
    """YAML text that `load` turns back into an equal config."""
    return yaml.safe_dump(to_tree(value), sort_keys=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file, as plain values. Raises ConfigError if it is not one."""
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        problem = getattr(error, "problem", None) or getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path} cannot be read{where}: {problem}; expected a file in YAML or JSON.") from None
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}; expected a mapping of keys to values.")
    return tree or {}


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path} extends itself through {', '.join(map(str, seen))}; expected a chain that ends.")
    tree = read_yaml(path)
    parent = tree.pop("extends", None)
    return _merge(_read(path.parent / str(parent), (*seen, path.resolve())), tree) if parent else tree


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"the override {text!r} has no value; expected the form key.path=value.")
    try:
        tree: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"the value of the override {text!r} is not YAML; expected it in quotes.") from None
    for name in reversed(key.split(".")):
        tree = {name: tree}
    return tree


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    if "kind" in new and "kind" in old and new["kind"] != old["kind"]:
        return new  # another kind: the settings of the old one no longer apply
    merged = dict(old)
    for key, value in new.items():
        before = old.get(key)
        merged[key] = _merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def spelled(tree: Any) -> Any:
    """A tree as JSON can hold it: what is no finite number becomes the word that reads back as one."""
    if isinstance(tree, dict):
        return {key: spelled(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [spelled(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return "NaN" if math.isnan(tree) else "Infinity" if tree > 0 else "-Infinity"
    return tree


def _explain(error: ValidationError, cls: type, source: str) -> str:
    known = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    parts = [_sentence(problem, known) for problem in error.errors(include_url=False)]
    return f"{source}: {'; '.join(parts)}." if source else f"{'; '.join(parts)}."


def _sentence(problem: ErrorDetails, known: Sequence[str]) -> str:
    """What is wrong with one value: its name, what it is, what it should be."""
    name = printable(".".join(map(str, problem["loc"]))) or "the whole"
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{name} is missing; expected a value"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
        return f"{name} is not known" + (f" (did you mean {near[0]}?)" if near else "")
    said = problem["msg"].removeprefix("Value error, ").rstrip(".")
    if kind == "value_error":
        return f"{name}: {said}" if problem["loc"] else said
    given = context["tag"] if kind == "union_tag_invalid" else problem["input"]
    expected = _expected(kind, context) or said[:1].lower() + said[1:]
    return f"{name} is {_shown(given)}; expected {expected}"


def _expected(kind: str, context: Mapping[str, Any]) -> str | None:
    """What a value should have been, in words; None for what pydantic says well enough."""
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind == "union_tag_invalid":
        return str(context["expected_tags"]).replace("'", "")
    bounds = {"greater_than_equal": "ge", "greater_than": "gt", "less_than_equal": "le", "less_than": "lt"}
    if kind in bounds:
        words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        bound = context[bounds[kind]]
        return f"{words[bounds[kind]]} {f'{bound:g}' if isinstance(bound, float) else bound}"
    kinds = {
        "int": "a whole number",
        "float": "a number",
        "finite": "a finite number",
        "bool": "true or false",
        "string": "text",
        "path": "a path",
        "dataclass": "named settings",
        "tuple": "a list",
        "dict": "named values",
    }
    return kinds.get(kind.split("_")[0]) if kind.endswith(("_type", "_parsing", "_from_float", "_number")) else None


def _shown(value: Any) -> str:
    """A value as it was given, cut where it is long; without what steers a terminal, for it may be a stranger's."""
    text = printable(repr(value))
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."

"""A command's options from its settings class, so that every option is written once."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from ..config import parse
from ..errors import UsageError
from . import STOPPED


def app_of(settings: type, run: Callable[[Any], int], positional: Sequence[str]) -> typer.Typer:
    """A typer application of one command whose options are the fields of `settings`.

    Values reach the settings class as text and are checked there, once; only switches are read here.
    """

    def command(**given: Any) -> None:
        tree = {name: value for name, value in given.items() if value is not None}
        empty = [name for name, value in tree.items() if isinstance(value, str) and not value.strip()]
        if empty:
            raise UsageError(f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty; expected a value.")
        try:
            code = run(parse(settings, tree, source=""))
        except KeyboardInterrupt:  # typer would turn it into a failure like any other
            print("Stopped; nothing was left half-written.", file=sys.stderr)
            code = STOPPED
        raise typer.Exit(code)

    hints = get_type_hints(settings, include_extras=True)
    parameters = [
        _parameter(field, hints[field.name], field.name in positional) for field in dataclasses.fields(settings)
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = (settings.__doc__ or "").strip()
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)
    return app


def _parameter(field: dataclasses.Field[Any], hint: Any, is_positional: bool) -> inspect.Parameter:
    kind, described, title = _unwrapped(hint)
    text = described + _shown(field, kind)
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    default = inspect.Parameter.empty if required else None
    given: Any = list[str] if _takes_several(kind) else str
    if is_positional:
        argument: Any = typer.Argument(help=text, show_default=False, metavar=field.name.upper())
        return _keyword(field.name, Annotated[given | None, argument], default)
    name = f"--{field.name.replace('_', '-')}"
    names = (name, "-o") if field.name == "output" else (name,)
    if kind is bool:
        # What a recipe may have switched on can be switched off.
        names = (f"{name}/--no-{name[2:]}",) if field.default is None else names
        switch = typer.Option(*names, help=text, show_default=False)
        return _keyword(field.name, Annotated[bool | None, switch], None)
    option = typer.Option(*names, help=text, show_default=False, metavar=_metavar(kind, title))
    return _keyword(field.name, Annotated[given | None, option], default)


def _takes_several(kind: Any) -> bool:
    """Whether a field is a tuple of any length, which a command line gives as several words."""
    return get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _unwrapped(hint: Any) -> tuple[Any, str, str | None]:
    """The type behind Annotated and `| None`, and the description and title found on the way."""
    described, title = "", None
    while True:
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
            notes = [mark for mark in marks if isinstance(mark, FieldInfo)]
            described = next((note.description for note in notes if note.description), described)
            title = next((note.title for note in notes if note.title), title)
        elif get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint):
            hint = next(choice for choice in get_args(hint) if choice is not type(None))
        else:
            return hint, described, title


def _kinds(kind: Any) -> list[str]:
    """The names that a field accepts, where it accepts only names."""
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    if get_origin(kind) in (Union, types.UnionType):
        return [str(get_type_hints(choice)["kind"].__args__[0]) for choice in get_args(kind)]
    return []


def _metavar(kind: Any, title: str | None) -> str:
    """What stands for the value in `--help`: the field's title, its choices, or what kind of text it is."""
    if title is not None:
        return title
    names = _kinds(kind)
    return "|".join(names) if names else {int: "INT", float: "NUMBER"}.get(kind, "TEXT")


def _shown(field: dataclasses.Field[Any], kind: Any) -> str:
    if field.default in (None, False, dataclasses.MISSING):
        return ""
    default = field.default.kind if dataclasses.is_dataclass(field.default) else field.default  # type: ignore[union-attr]
    return f" [default: {default}]"

"""What diffusers' objects hand out: a configuration and a result, each read by attribute or by item."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import UsageError


class Config(dict[str, Any]):
    """The arguments that an object was made from, as attributes and as items; fixed once made."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name}; it has {', '.join(self)}.") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise UsageError(f"{name} of a configuration cannot be set; make a new object with from_config instead.")

    def _refuse(self, *_: object, **__: object) -> Any:
        raise UsageError("a configuration cannot be changed; make a new object with from_config instead.")

    __setitem__ = __setattr__
    __delitem__ = __delattr__ = __ior__ = _refuse  # pyright: ignore[reportAssignmentType]
    update = pop = popitem = setdefault = clear = _refuse  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:
        return Config, (dict(self),)


@dataclasses.dataclass
class Output:
    """A result whose fields are attributes, items by name, and items by position; a mapping of names in all else."""

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __len__(self) -> int:
        return len(self.keys())

    def get(self, name: str, default: Any = None) -> Any:
        """A field by its name, or `default`."""
        return getattr(self, name) if name in self.keys() else default

    def values(self) -> tuple[Any, ...]:
        """The fields' values."""
        return self.to_tuple()

    def keys(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(field.name for field in dataclasses.fields(self))

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Names and values of the fields."""
        return tuple(zip(self.keys(), self.to_tuple(), strict=True))

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields' values."""
        return tuple(getattr(self, name) for name in self.keys())


def arguments_of(cls: type, config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What the constructor of `cls` takes out of a configuration; `changes` win, and must all be its arguments.

    Keys of `config` that it does not take are ignored: they are another class's. Raises UsageError.
    """
    known = inspect.signature(cls).parameters
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise UsageError(f"{cls.__name__} has no setting {', '.join(unknown)}; expected one of {', '.join(known)}.")
    return {name: value for name, value in {**config, **changes}.items() if name in known}

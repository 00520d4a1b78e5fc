"""Configuration: files merged left to right, overrides, kinds, and errors that name every bad key."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from stillmotion.config import CHOICE, config, dump, load, parse, read_yaml, to_tree
from stillmotion.errors import ConfigError, StillmotionError, UsageError


@config
class Square:
    kind: Literal["square"] = "square"
    side: float = 1.0
    colour: str = "red"


@config
class Disc:
    kind: Literal["disc"] = "disc"
    radius: float = 2.0


@config
class Inner:
    steps: int = 3
    rate: float = 1e-3


@config
class Outer:
    name: str
    shape: Annotated[Square | Disc, CHOICE] = dataclasses.field(default_factory=Square)
    inner: Inner = dataclasses.field(default_factory=Inner)
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None


@config
class Positive:
    value: float

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise UsageError(f"value is {self.value}; expected a positive number.")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_later_files_win_and_overrides_win_over_files(tmp_path: Path) -> None:
    first = write(tmp_path, "a.yaml", "name: a\ninner: {steps: 5, rate: 0.5}\nsizes: [7, 8, 9]\n")
    second = write(tmp_path, "b.yaml", "name: b\ninner: {steps: 6}\n")
    assert load(Outer, [first, second]) == Outer(name="b", inner=Inner(steps=6, rate=0.5), sizes=(7, 8, 9))
    assert load(Outer, [second, first]).name == "a"
    made = load(Outer, [first, second], ["inner.steps=7", "inner.steps=8", "sizes=[4]", "limit=2"])
    assert made.inner == Inner(steps=8, rate=0.5) and made.sizes == (4,) and made.limit == 2


def test_extends_is_relative_to_the_file_and_refined_by_it(tmp_path: Path) -> None:
    write(tmp_path, "root.yaml", "name: root\ninner: {steps: 1, rate: 0.25}\n")
    write(tmp_path, "deep/middle.yaml", "extends: ../root.yaml\ninner: {steps: 2}\n")
    leaf = write(tmp_path, "deep/leaf.yaml", "extends: middle.yaml\nname: leaf\n")
    assert load(Outer, [leaf]) == Outer(name="leaf", inner=Inner(steps=2, rate=0.25))


def test_a_chain_of_extends_that_does_not_end_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path, "a.yaml", "extends: b.yaml\n")
    write(tmp_path, "b.yaml", "extends: a.yaml\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load(Outer, [first])


def test_another_kind_replaces_the_section_and_the_same_kind_refines_it(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "name: a\nshape: {kind: square, side: 3, colour: blue}\n")
    assert load(Outer, [path], ["shape.side=4"]).shape == Square(side=4, colour="blue")
    assert load(Outer, [path], ["shape={kind: square, side: 5}"]).shape == Square(side=5, colour="blue")
    assert load(Outer, [path], ["shape={kind: disc, radius: 9}"]).shape == Disc(radius=9)
    assert load(Outer, [path], ["shape.kind=disc"]).shape == Disc()


def test_every_bad_key_is_named_with_its_place_and_the_source() -> None:
    inner = {"steps": "many", "rate": 1, "rat": 2}
    tree = {"name": "a", "stepz": 1, "inner": inner, "shape": {"kind": "disc", "side": 1}}
    with pytest.raises(ConfigError) as caught:
        parse(Outer, tree, source="x.yaml")
    message = str(caught.value)
    for part in ("x.yaml", "stepz is", "inner.steps is", "inner.rat is", "shape.disc.side is"):
        assert part in message, (part, message)
    assert "name is" not in message and "inner.rate is" not in message


def test_a_missing_key_and_an_unknown_kind_are_named() -> None:
    with pytest.raises(ConfigError, match="name is missing"):
        parse(Outer, {})
    with pytest.raises(ConfigError, match=r"shape is 'cube'; expected .*disc"):
        parse(Outer, {"name": "a", "shape": {"kind": "cube"}})


@config
class Bounded:
    """One field of each kind."""

    whole: Annotated[int, Field(ge=1, le=100)] = 1
    number: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    choice: Literal["crop", "pad"] = "crop"
    flag: bool = False


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"whole": 0}, "whole is 0; expected at least 1."),
        ({"whole": "abc"}, "whole is 'abc'; expected a whole number."),
        ({"whole": 2.5}, "whole is 2.5; expected a whole number."),
        ({"whole": 101}, "whole is 101; expected at most 100."),
        ({"number": float("nan")}, "number is nan; expected a finite number."),
        ({"number": "-1"}, "number is '-1'; expected more than 0."),
        ({"choice": "cover"}, "choice is 'cover'; expected crop or pad."),
        ({"flag": "perhaps"}, "flag is 'perhaps'; expected true or false."),
        ({"whole": "9" * 200 + "x"}, f"whole is '{'9' * 76}...; expected a whole number."),
        ({"choice": "\x1b[2J"}, r"choice is '\x1b[2J'; expected crop or pad."),
    ],
)
def test_a_sentence_says_what_was_given_and_what_was_expected(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Bounded, given, source="")
    assert str(caught.value) == said


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(ConfigError, match="did you mean sizes"):
        parse(Outer, {"name": "a", "size": [1]})
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {"name": "a", "quite_other": 1})
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_refusal_by_the_config_itself_names_the_value(value: float) -> None:
    with pytest.raises(ConfigError, match=f"value is {value}; expected a positive number"):
        parse(Positive, {"value": value})
    with pytest.raises(UsageError):
        Positive(value=value)


@pytest.mark.parametrize("text", ["value=.nan", "value=0"])
def test_an_override_meets_the_same_checks(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a positive number"):
        load(Positive, overrides=[text])


@pytest.mark.parametrize("text", ["name", "=3", "", "name=[1"])
def test_an_override_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        load(Outer, overrides=[text])


def test_a_value_may_hold_an_equals_sign_and_yaml_numbers_keep_their_type() -> None:
    made = load(Outer, overrides=["name=a=b", "inner.rate=3e-5"])
    assert made.name == "a=b" and made.inner.rate == 3e-5 and isinstance(made.inner.rate, float)


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    value = Outer(name="ä: #1", shape=Disc(radius=0.1), inner=Inner(steps=9, rate=1e-9), sizes=(), limit=4)
    path = write(tmp_path, "a.yaml", dump(value))
    assert load(Outer, [path]) == value
    assert parse(Outer, to_tree(value)) == value
    assert to_tree(value)["shape"] == {"kind": "disc", "radius": 0.1}


def test_configs_are_frozen_keyword_only_and_closed() -> None:
    value = Outer(name="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.name = "b"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Inner(3)  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        object.__setattr__(value, "other", 1)


@pytest.mark.parametrize(
    ("text", "said"), [("- 1\n- 2\n", "holds a list"), ("a: [1", "cannot be read"), ("5", "holds a int")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, "a.yaml", text)
    with pytest.raises(ConfigError, match=said) as caught:
        load(Outer, [path])
    assert str(path) in str(caught.value)


def test_a_missing_file_an_empty_file_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read"):
        read_yaml(tmp_path / "absent.yaml")
    assert read_yaml(write(tmp_path, "empty.yaml", "")) == {}
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "bytes.yaml")


def test_a_yaml_tag_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Outer, [path])


def test_a_config_error_is_a_usage_error_and_a_value_error() -> None:
    assert issubclass(ConfigError, UsageError)
    assert issubclass(UsageError, StillmotionError) and issubclass(UsageError, ValueError)

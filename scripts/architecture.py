"""Reads the package with ast: who imports whom and what is never used here (failures), how big things grow (advice)."""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "stillmotion"
BELOW_TRAINING = frozenset(
    {"errors", "files", "events", "config", "hub", "nn", "media", "models", "diffusion", "conditioning", "presets"}
    | {"native", "kernels", "checkpoints", "placement", "pipelines", "evaluation", "curation"}
)
BELOW_TASKS = BELOW_TRAINING | {"training", "recipe"}
FACE = frozenset({"tasks", "recipe", "presets", "evaluation", "media", "config", "errors", "files", "events"})
# The table of the design: layer (the first name under the package) -> layers that it may import beside itself.
ALLOWED: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "files": frozenset({"errors"}),
    "events": frozenset({"errors"}),
    "config": frozenset({"errors", "files", "events"}),
    "hub": frozenset({"errors", "files", "events"}),
    "native": frozenset({"errors"}),
    "kernels": frozenset(),
    "nn": frozenset({"kernels"}),
    "media": frozenset({"errors", "files", "events", "config"}),
    "models": frozenset({"kernels", "nn", "config", "errors", "events"}),
    "diffusion": frozenset({"config", "errors", "events"}),
    "conditioning": frozenset({"models", "nn", "config", "errors"}),
    "presets": frozenset({"models", "diffusion", "conditioning", "config", "errors"}),
    "checkpoints": frozenset(
        {"presets", "models", "diffusion", "conditioning", "hub", "files", "config", "errors", "events"}
    ),
    "placement": frozenset({"models", "config", "errors", "events"}),
    "pipelines": BELOW_TRAINING - {"files", "hub", "pipelines", "evaluation", "curation"},
    "evaluation": frozenset({"media", "nn", "config", "errors", "files", "events"}),
    "curation": frozenset({"evaluation", "media", "native", "nn", "hub", "files", "config", "errors", "events"}),
    "training": BELOW_TRAINING,
    "recipe": frozenset({"kernels", "presets", "media", "pipelines", "placement", "config", "errors", "files"}),
    "tasks": BELOW_TASKS,
    "diffusers_api": BELOW_TASKS - {"training", "curation"},
    "server": FACE,
    "cli": FACE | {"server"},
    "__main__": frozenset({"cli"}),
}
# Packages that only one place imports; () means nowhere in the package.
HOMES: dict[str, tuple[str, ...]] = {
    "av": ("media",),
    "fastapi": ("server",),
    "typer": ("cli",),
    "ray": ("curation", "execute"),
    "yaml": ("config",),
    "numba": ("native",),
    "diffusers": (),
}
# Files that import our own names inside functions: the lazy public face and the command table.
LAZY = {("__init__",), ("cli", "__init__")}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "core"}
NEVER = {"eval", "exec", "hasattr", "print"}  # `cli` alone prints
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
COPY_LINES = 12
MAX_FILE, MAX_FUNCTION, MAX_ARGUMENTS, MAX_NESTING = 500, 60, 8, 3
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One parsed file; `parts` are its folders and its stem under the package."""

    parts: tuple[str, ...]
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return "/".join(self.parts)


def read(root: Path, package: str = PACKAGE) -> list[Source]:
    """Every Python file of `root/package`."""
    found = []
    for path in sorted((root / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(root / package).with_suffix("").parts
        found.append(Source(parts, text, ast.parse(text, filename=str(path))))
    return found


def violations(sources: list[Source], package: str = PACKAGE) -> Iterator[str]:
    """What the design forbids, one sentence each."""
    for source in sources:
        yield from _names(source)
        yield from _imports(source, package)
        yield from _uses(source)
    yield from _copies(sources)


def advice(sources: list[Source]) -> Iterator[str]:
    """What is larger than good code usually is."""
    for source in sources:
        if (lines := len(source.text.splitlines())) > MAX_FILE:
            yield f"{source.name}: {lines} lines, more than {MAX_FILE}"
        for node in ast.walk(source.tree):
            if isinstance(node, FUNCTIONS):
                yield from _sizes(source, node)


def _names(source: Source) -> Iterator[str]:
    for part in source.parts:
        if part.strip("_") in VAGUE_NAMES:
            yield f"{source.name}: the name {part} says nothing"
    layer = source.parts[0]
    if layer not in ALLOWED and source.parts != ("__init__",):
        yield f"{source.name}: {layer} is no layer of the table"


def _imports(source: Source, package: str) -> Iterator[str]:
    in_function = {
        id(node)
        for function in ast.walk(source.tree)
        if isinstance(function, (*FUNCTIONS, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(source.tree):
        line = f"{source.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield f"{line}: star import"
        for target in dict.fromkeys(_targets(node, package, source.parts)):
            first, _, rest = target.partition(".")
            if first != package:
                yield from _foreign(source, line, first)
                continue
            used = rest.split(".")[0]
            yield from _own(source, line, used)
            if id(node) in in_function and source.parts not in LAZY:
                yield f"{line}: import of {target} inside a function"


def _own(source: Source, line: str, used: str) -> Iterator[str]:
    layer = source.parts[0]
    if source.parts == ("__init__",) or used == layer:
        return
    if not used:
        yield f"{line}: {layer} may not import the public face"
    elif used not in ALLOWED.get(layer, frozenset()):
        yield f"{line}: {layer} may not import {used}"


def _foreign(source: Source, line: str, first: str) -> Iterator[str]:
    if first in PICKLES:
        yield f"{line}: {first} runs code from files; expected safetensors or JSON"
    home = HOMES.get(first)
    if home is not None and (not home or source.parts[: len(home)] != home):
        yield f"{line}: {first} belongs to {'/'.join(home) or 'tests and benchmarks'}"


def _targets(node: ast.AST, package: str, parts: tuple[str, ...]) -> list[str]:
    """The dotted modules that a statement or a call imports; relative ones made absolute."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = ".".join((package, *parts[: -node.level])) if node.level else ""
        module = ".".join(name for name in (above, node.module) if name)
        return [f"{module}.{alias.name}" for alias in node.names] if module == package else [module]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        named = node.args[0] if node.args else None
        if isinstance(named, ast.Constant) and isinstance(named.value, str):
            return [f"{package}{named.value}" if named.value.startswith(".") else named.value]
    return []


def _uses(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        line = f"{source.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Name) and node.id in NEVER and not (node.id == "print" and source.parts[0] == "cli"):
            yield f"{line}: {node.id} is not used here"
        elif (isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load") or (
            isinstance(node, ast.ImportFrom) and node.module == "torch" and any(a.name == "load" for a in node.names)
        ):
            yield f"{line}: torch.load opens pickles; expected safetensors"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"{line}: allow_pickle opens pickles; expected arrays alone"


def _copies(sources: list[Source]) -> Iterator[str]:
    first: dict[str, str] = {}
    for source in sources:
        for node in ast.walk(source.tree):
            if not isinstance(node, FUNCTIONS) or _lines(node) - _docstring_lines(node) < COPY_LINES:
                continue
            body = "\n".join(ast.dump(statement) for statement in _body(node))
            here = f"{source.name}:{node.lineno}"
            if (twin := first.setdefault(body, here)) != here:
                yield f"{here}: {node.name} is a copy of {twin}"


def _sizes(source: Source, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    line = f"{source.name}:{node.lineno}: {node.name}"
    body = _body(node)
    length = (node.end_lineno or node.lineno) - body[0].lineno + 1 if body else 0
    arguments = [
        a for a in node.args.posonlyargs + node.args.args + node.args.kwonlyargs if a.arg not in ("self", "cls")
    ]
    depth = max((_nesting(statement) for statement in node.body), default=0)
    if length > MAX_FUNCTION:
        yield f"{line} has {length} lines, more than {MAX_FUNCTION}"
    if len(arguments) > MAX_ARGUMENTS:
        yield f"{line} takes {len(arguments)} arguments, more than {MAX_ARGUMENTS}"
    if depth > MAX_NESTING:
        yield f"{line} nests {depth} deep, more than {MAX_NESTING}"


def _body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node) is not None else node.body


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return _lines(node.body[0]) if ast.get_docstring(node) is not None else 0


def _nesting(node: ast.AST) -> int:
    if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
        return 0
    if isinstance(node, ast.If) and len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        # A chain of elif counts once.
        return max(1 + max(map(_nesting, node.body)), _nesting(node.orelse[0]))
    return isinstance(node, BLOCKS) + max(map(_nesting, ast.iter_child_nodes(node)), default=0)


def main() -> int:
    """Print what was found in `src`; 1 where something is forbidden."""
    sources = read(Path(__file__).resolve().parent.parent / "src")
    for line in advice(sources):
        print(f"advice: {line}")
    found = list(violations(sources))
    for line in found:
        print(line)
    print(f"{len(sources)} files read, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

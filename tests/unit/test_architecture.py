"""The package keeps to the import table of the design, and the reader that says so finds what is planted."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def _reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("architecture", REPOSITORY / "scripts" / "architecture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["architecture"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


architecture = _reader()


def plant(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        path = root / "stillmotion" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(architecture.violations(architecture.read(root)))


def test_the_package_obeys_the_table() -> None:
    sources = architecture.read(REPOSITORY / "src")
    assert len(sources) > 20
    assert list(architecture.violations(sources)) == []


def test_the_table_is_a_hierarchy() -> None:
    done: set[str] = set()
    left = dict(architecture.ALLOWED)
    while left:
        free = [layer for layer, uses in left.items() if uses <= done]
        assert free, f"these layers import each other: {sorted(left)}"
        done |= set(free)
        for layer in free:
            del left[layer]


def test_the_table_says_what_the_design_says() -> None:
    allowed = architecture.ALLOWED
    assert "models" not in allowed["diffusion"] and "diffusion" not in allowed["models"]
    assert allowed["nn"] == {"kernels"} and allowed["kernels"] == set()
    assert not allowed["pipelines"] & {"files", "hub", "evaluation", "curation", "training"}
    assert not allowed["diffusers_api"] & {"training", "curation", "tasks"}
    assert allowed["diffusers_api"] >= {"pipelines", "recipe", "evaluation", "hub", "files"}
    assert allowed["cli"] - allowed["server"] == {"server"}
    assert not allowed["server"] & {"pipelines", "models", "checkpoints", "training", "curation"}
    assert allowed["curation"].isdisjoint({"models", "pipelines", "checkpoints"})
    assert allowed["recipe"] == {"kernels", "presets", "media", "pipelines", "placement", "config", "errors", "files"}


COPIED = "def {name}(x):\n" + "".join(f"    x = x + {i}\n" for i in range(11)) + "    return x\n"
PLANTED = {
    "relative import upwards": ({"nn/mix.py": "from ..config import load\n"}, "nn may not import config"),
    "absolute import upwards": (
        {"models/unet.py": "import stillmotion.diffusion.sigmas\n"},
        "may not import diffusion",
    ),
    "name from the package": ({"pipelines/video.py": "from .. import files\n"}, "pipelines may not import files"),
    "package from package": ({"diffusion/x.py": "from stillmotion import models\n"}, "diffusion may not import models"),
    "import by an __init__": ({"models/__init__.py": "from ..presets import SVD\n"}, "models may not import presets"),
    "import for types only": (
        {"nn/mix.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..errors import X\n"},
        "nn may not import errors",
    ),
    "import by a call": (
        {"nn/mix.py": "import importlib\nimportlib.import_module('stillmotion.config')\n"},
        "nn may not import config",
    ),
    "public face": ({"tasks/x.py": "import stillmotion\n"}, "may not import the public face"),
    "drop-in face": ({"diffusers_api.py": "from .tasks import generate\n"}, "diffusers_api may not import tasks"),
    "service over pipelines": ({"server/app.py": "from ..pipelines import x\n"}, "server may not import pipelines"),
    "unknown layer": ({"extras/x.py": ""}, "extras is no layer"),
    "av elsewhere": ({"tasks/x.py": "import av\n"}, "av belongs to media"),
    "av in a function": ({"tasks/x.py": "def f():\n    from av.video import frame\n"}, "av belongs to media"),
    "fastapi elsewhere": ({"cli/serve.py": "from fastapi import FastAPI\n"}, "fastapi belongs to server"),
    "typer elsewhere": ({"tasks/x.py": "import typer\n"}, "typer belongs to cli"),
    "ray elsewhere": ({"curation/stage.py": "import ray.data\n"}, "ray belongs to curation/execute"),
    "diffusers anywhere": ({"diffusers_api.py": "import diffusers\n"}, "diffusers belongs to tests"),
    "yaml elsewhere": ({"checkpoints/x.py": "import yaml\n"}, "yaml belongs to config"),
    "hidden own import": ({"tasks/x.py": "def f():\n    from ..errors import X\n"}, "inside a function"),
    "hidden in a method": (
        {"tasks/x.py": "class A:\n    def f(self):\n        from .y import z\n"},
        "inside a function",
    ),
    "star import": ({"tasks/x.py": "from ..errors import *\n"}, "star import"),
    "vague file": ({"nn/utils.py": ""}, "utils says nothing"),
    "vague folder": ({"nn/common/mix.py": ""}, "common says nothing"),
    "print": ({"tasks/x.py": "print(1)\n"}, "print is not used"),
    "print handed on": ({"tasks/x.py": "watch = print\n"}, "print is not used"),
    "eval": ({"tasks/x.py": "eval('1')\n"}, "eval is not used"),
    "exec": ({"tasks/x.py": "exec('1')\n"}, "exec is not used"),
    "hasattr": ({"tasks/x.py": "def f(x):\n    return hasattr(x, 'y')\n"}, "hasattr is not used"),
    "pickle": ({"tasks/x.py": "import pickle\n"}, "pickle runs code"),
    "torch.load": ({"checkpoints/x.py": "import torch\ntorch.load('x', weights_only=True)\n"}, "torch.load opens"),
    "load from torch": ({"checkpoints/x.py": "from torch import load\n"}, "torch.load opens"),
    "numpy pickle": ({"tasks/x.py": "import numpy\nnumpy.load('x', allow_pickle=True)\n"}, "allow_pickle opens"),
    "copied function": (
        {"nn/a.py": COPIED.format(name="f"), "media/b.py": COPIED.format(name="g")},
        "f is a copy of media/b:1",
    ),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_violation_is_found(case: str, tmp_path: Path) -> None:
    files, expected = PLANTED[case]
    found = plant(tmp_path, files)
    assert len(found) == 1 and re.search(re.escape(expected), found[0]), found


def test_what_the_design_allows_is_not_found(tmp_path: Path) -> None:
    found = plant(
        tmp_path,
        {
            "__init__.py": "def f():\n    from .pipelines import image_to_video\n    import stillmotion.tasks\n",
            "cli/__init__.py": "import typer\ndef f():\n    from .animate import run\n    from ..server import app\n",
            "cli/animate.py": "from ..tasks import generate\nfrom . import table\nprint(1)\n",
            "config.py": "import yaml\nfrom .errors import ConfigError\n",
            "media/video.py": "import av\nfrom ..files import atomic_path\n",
            "curation/execute.py": "def run():\n    import ray\n",
            "server/app.py": "from fastapi import FastAPI\nfrom ..recipe import Recipe\n",
            "models/unet.py": "from ..nn import mix\nfrom .autoencoder import Autoencoder\n",
            "training/loop.py": "from ..curation import shards\nmodel.eval()\nnumpy.load('x', allow_pickle=False)\n",
            "nn/a.py": COPIED.format(name="f").replace("    x = x + 0\n", "    x = x - 9\n"),
            "nn/b.py": COPIED.format(name="f"),
            "nn/c.py": "def f(x):\n    y = x\n    return y\n",
            "nn/d.py": "def g(x):\n    y = x\n    return y\n",
        },
    )
    assert found == []


def test_sizes_are_advice(tmp_path: Path) -> None:
    long_function = "def f():\n" + "    x = 1\n" * 61
    blocks = ("for a in x:", "if a:", "while a:", "with a:", "pass")
    deep = "def g(x):\n" + "".join("    " * i + line + "\n" for i, line in enumerate(blocks, 1))
    chain = "def h(x):\n    if x == 1:\n        pass\n" + "".join(
        f"    elif x == {i}:\n        pass\n" for i in range(5)
    )
    many = f"def k({', '.join(f'a{i}' for i in range(9))}):\n    pass\n"
    text = long_function + deep + chain + many + "\n" * 430
    assert plant(tmp_path, {"nn/large.py": text}) == []
    found = "\n".join(architecture.advice(architecture.read(tmp_path)))
    assert "more than 500" in found and "f has 61 lines" in found and "g nests 4 deep" in found
    assert "k takes 9 arguments" in found and "h nests" not in found

"""stillmotion generate"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from ..config import dump
from ..tasks.generate import Made, Plan, generate, plan
from ..tasks.settings import GenerateSettings
from .options import app_of
from .progress import Terminal

STAGES = ("load", "encode", "denoise", "decode", "write")


def run(settings: GenerateSettings) -> int:
    """Make the videos and print where each lies; 1 if any could not be made."""
    if settings.dry_run:
        _print_plan(plan(settings))
        return 0
    failures = 0
    made = None
    with Terminal() as terminal:
        for made in generate(settings, terminal):
            terminal.clear()
            _print_made(made)
            failures += made.error is not None
    if made is not None and not failures:
        _print_hints(settings, made)
    return 1 if failures else 0


def _print_made(made: Made) -> None:
    if made.error is not None:
        print(f"Error: {made.error}", file=sys.stderr)
        return
    times = ", ".join(f"{stage} {made.seconds[stage]:.1f} s" for stage in STAGES if stage in made.seconds)
    print(f"{made.path}  ({made.fitted}; seed {made.seed}; {times})")


def _print_hints(settings: GenerateSettings, made: Made) -> None:
    again = f"{_program()} generate {shlex.quote(settings.image)}"
    print("Try next:")
    print(f"  another take:  {again} --seed {made.seed + 1}")
    print(f"  more motion:   {again} --motion 200")
    if settings.model == "tiny":
        print(f"  full quality:  {again} --model svd-xt   (fetches 1.5 billion weights)")


def _program() -> str:
    """How the user called us, so that the hints can be typed as they stand."""
    called = Path(sys.argv[0])
    return "python -m stillmotion" if called.name == "__main__.py" else str(called)


def _print_plan(planned: Plan) -> None:
    asked, where = planned.request, planned.request.placement
    print(f"{len(asked.seeds)} video(s) of {len(asked.images)} image(s), seeds {asked.seeds[0]} and up")
    print(f"model {asked.settings.model} on {where.device} in {where.dtype}, offload {where.offload}")
    print(f"{asked.width}x{asked.height} pixels, image fitted by {asked.fit}, played at {asked.play_fps:g} fps")
    print(dump(asked.video).rstrip())
    counted = planned.cost
    print(f"{counted.model_calls} model calls, {counted.operations / 1e12:.2f} TFLOP a video,", end=" ")
    print(f"{counted.weight_bytes / 1e9:.2f} GB of weights")
    print(f"expected time: about {planned.seconds:.0f} s")


app = app_of(GenerateSettings, run, positional=("image",))

"""stillmotion generate"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from ..config import dump, to_tree
from ..errors import StillmotionError, UsageError, printable
from ..tasks.generate import Made, Plan, generate, plan
from ..tasks.machine import compute_on_usable_cores
from ..tasks.outputs import is_file_name
from ..tasks.settings import GenerateSettings
from .options import app_of
from .printing import print_json
from .progress import Terminal

STAGES = ("load", "encode", "denoise", "decode", "write")


def run(settings: GenerateSettings) -> int:
    """Make the videos and print where each lies; 1 if any could not be made."""
    if settings.preview_every is not None and settings.preview is None:
        raise UsageError("preview-every is set without a file to show; expected --preview FILE too.")
    compute_on_usable_cores()
    if settings.dry_run:
        planned = plan(settings)
        print_json(_plan_as_json(planned)) if settings.json else _print_plan(planned)
        return 0
    if settings.memory is not None:
        planned = plan(settings)
        print(f"{_memory_told(planned)}; expected time: about {_duration(planned.seconds)}", file=sys.stderr)
    failures = 0
    made = None
    with Terminal() as terminal:
        try:
            for made in generate(settings, terminal):
                terminal.clear()
                print_json(as_json(made)) if settings.json else print_made(made)
                failures += made.error is not None
        except UsageError:
            raise
        except StillmotionError as error:  # of a single image; of one among several Made tells it
            if settings.json:
                print_json({"image": settings.image, "path": None, "error": str(error)})
            raise
    if made is not None and not failures and not settings.json:
        _print_hints(settings, made)
    return 1 if failures else 0


def print_made(made: Made) -> None:
    """Where the video lies and what is to be known of it; or why there is none, on standard error."""
    if made.error is not None:
        print(f"Error: {printable(made.error)}", file=sys.stderr)
        return
    if made.is_old:
        print(f"{printable(str(made.path))}  (made before, seed {made.seed})")
        return
    times = ", ".join(f"{stage} {made.seconds[stage]:.1f} s" for stage in STAGES if stage in made.seconds)
    print(f"{printable(str(made.path))}  ({made.fitted}; seed {made.seed}; {times})")
    for note in made.notes:
        print(f"  note: {note}")


def as_json(made: Made) -> dict[str, Any]:
    """The same for a program."""
    return {
        "image": str(made.image),
        "path": None if made.path is None else str(made.path),
        "error": made.error,
        "seed": made.seed,
        "fitted": made.fitted,
        "made_before": made.is_old,
        "seconds": {stage: round(value, 3) for stage, value in made.seconds.items()},
        "notes": list(made.notes),
        "frames_sha256": None if made.recipe is None else made.recipe.frames.sha256,
    }


def _print_hints(settings: GenerateSettings, made: Made) -> None:
    again = f"{_program()} generate {_given(settings)}"
    print("Try next:")
    print(f"  another take:  {again} --seed {made.seed + 1}")
    print(f"  more motion:   {again} --motion 200")
    print(f"  the same again: {_program()} repeat {shlex.quote(str(made.path))}")
    if settings.model in (None, "tiny"):
        print(f"  full quality:  {again} --model svd-xt   (fetches 2.3 billion weights)")


def _given(settings: GenerateSettings) -> str:
    """What was asked for in plain words, as it was typed, but for seed, motion and a named file."""
    size = settings.size if settings.size in (None, "auto") else "{}x{}".format(*settings.size)
    folder = None if settings.output is None or is_file_name(settings.output) else settings.output
    named = {"recipe": settings.recipe, "at": settings.at, "model": settings.model, "config": settings.config}
    named |= {"variant": settings.variant, "size": size, "frames": settings.frames, "steps": settings.steps}
    named |= {"fit": settings.fit, "fps": settings.fps, "output": folder}
    options = [f"--{name} {shlex.quote(str(value))}" for name, value in named.items() if value is not None]
    image = settings.image
    if image is not None and image.startswith("-"):
        image = f"./{image}"
    return " ".join([*([shlex.quote(image)] if image is not None else []), *options])


def _program() -> str:
    """How the user called us, so that the hints can be typed as they stand."""
    called = Path(sys.argv[0])
    return "python -m stillmotion" if called.name == "__main__.py" else str(called)


def _print_plan(planned: Plan) -> None:
    asked, where, counted = planned.request, planned.request.placement, planned.cost
    print(f"{len(asked.seeds)} video(s) of {len(asked.sources)} image(s), seeds {asked.seeds[0]} and up")
    print(f"model {asked.model} on {where.device} in {where.dtype}, offload {where.offload}")
    size = f"{planned.width}x{planned.height}"
    print(f"{size} pixels, image fitted by {asked.fit}, played at {asked.play_fps:g} fps")
    print(dump(asked.video).rstrip())
    print(f"{counted.model_calls} model calls, {counted.operations / 1e12:.2f} TFLOP a video,", end=" ")
    print(f"{counted.weight_bytes / 1e9:.2f} GB of weights")
    print(f"{_memory_told(planned)}:")
    for peak in planned.memory.peaks:
        print(f"  {peak.stage}: {peak.bytes / 1e9:.2f} GB, weights {peak.weight_bytes / 1e9:.2f} GB of them")
    each = planned.expected
    print(f"expected time: about {_duration(planned.seconds)}, a video's {each.encode:.1f} s encoding,", end=" ")
    print(f"{each.denoise:.1f} s denoising, {each.decode:.1f} s decoding", end="")
    print(f"; {each.waiting:.1f} s of them wait for weights" if each.waiting else "")
    for note in planned.notes:
        print(f"  note: {note}")


def _memory_told(planned: Plan) -> str:
    """How a video is run, and the most that it holds."""
    placement, peak = planned.memory.placement, planned.memory.peak_bytes / 1e9
    branches = f"guidance's branches {placement.savings.branches}"
    return f"memory: offload {placement.offload}, {branches}, at most {peak:.2f} GB"


def _duration(seconds: float) -> str:
    """In seconds, of which few have a tenth, or where those are many in minutes or hours too."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{whole} s ({minutes} min)" if minutes < 120 else f"{whole} s ({minutes // 60} h {minutes % 60} min)"


def _plan_as_json(planned: Plan) -> dict[str, Any]:
    asked, counted = planned.request, planned.cost
    return {
        "videos": len(asked.seeds),
        "images": len(asked.sources),
        "seed": asked.seed,
        "model": asked.model,
        "placement": to_tree(asked.placement),
        "width": planned.width,
        "height": planned.height,
        "fit": asked.fit,
        "play_fps": asked.play_fps,
        "video": to_tree(asked.video),
        "encoding": to_tree(asked.encoding),
        "model_calls": counted.model_calls,
        "operations": counted.operations,
        "weight_bytes": counted.weight_bytes,
        "memory": {
            "placement": to_tree(planned.memory.placement),
            "peak_bytes": planned.memory.peak_bytes,
            "stages": {peak.stage: peak.bytes for peak in planned.memory.peaks},
        },
        "notes": list(planned.notes),
        "expected_seconds": round(planned.seconds, 1),
        "expected_stages": {name: round(value, 1) for name, value in to_tree(planned.expected).items()},
    }


app = app_of(GenerateSettings, run, positional=("image",))

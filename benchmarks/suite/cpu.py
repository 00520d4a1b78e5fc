"""The figures of a processor."""

from __future__ import annotations

from functools import partial

from . import experiments as do
from .experiments import Lab
from .figures import Bound, Experiment, Figure, at_least, at_most

FASTER = "diffusers' time / ours"
PREDICTED = "predicted / measured"
SMALLER = "ours / diffusers'"
PEAKS = "predicted peak over measured peak"
PREDICTABLE = Bound(0.9, 1.15)
SHORT = {"float32": "float32", "bfloat16": "bf16"}
DTYPES = ("float32", "bfloat16")
STEP_BOUNDS = {"float32": (1.6, 2.2), "bfloat16": (1.3, 1.7)}
DECODE_BOUNDS = {"float32": (1.5, 2.0), "bfloat16": (1.35, 1.7)}
WHOLE_BOUNDS = {"float32": (1.5, 2.0), "bfloat16": (1.3, 1.6)}


def suite(lab: Lab) -> list[Experiment]:
    """Every experiment of a processor, those of one model and precision side by side."""
    found = []
    for dtype in DTYPES:
        found += [embedded(lab, dtype), unet_step(lab, dtype), decode(lab, dtype), whole(lab, dtype)]
    found += [growth(lab), defaults(lab), chunks(lab), decode_memory(lab)]
    return [*found, *(whole_memory(lab, dtype) for dtype in DTYPES), start_up(lab)]


def unet_step(lab: Lab, dtype: str) -> Experiment:
    """A guided step against diffusers' and against the machine."""
    title = f"U-Net step, full-size network, {lab.shapes.step.size}, {SHORT[dtype]}"
    must, aim = STEP_BOUNDS[dtype]
    share = f"share of the machine's best matrix rate that a U-Net step reaches, {SHORT[dtype]}"
    figures = (
        Figure(f"unet-step-{dtype}", title, "s", FASTER, at_least(must), at_least(aim)),
        Figure(f"rate-share-{dtype}", share, "", "our share", at_least(0.6), at_least(0.75)),
    )
    return Experiment(f"unet-{dtype}", figures, partial(do.unet_step, lab, dtype))


def decode(lab: Lab, dtype: str) -> Experiment:
    """The decoder against diffusers'."""
    title = f"temporal decode, {lab.shapes.decode.size}, all-frames-exact, {SHORT[dtype]}"
    must, aim = DECODE_BOUNDS[dtype]
    faster = Figure(f"decode-{dtype}", title, "s", FASTER, at_least(must), at_least(aim))
    return Experiment(f"decoder-{dtype}", (faster,), partial(do.decode, lab, dtype))


def embedded(lab: Lab, dtype: str) -> Experiment:
    """The embedded model end to end."""
    request = lab.shapes.embedded
    title = f"end to end, embedded model, {request.size}, {request.steps} steps, {SHORT[dtype]}"
    return _whole(lab, f"embedded-{dtype}", title, "tiny", dtype)


def whole(lab: Lab, dtype: str) -> Experiment:
    """The full-size network end to end."""
    request = lab.shapes.whole
    title = f"end to end, full-size network, {request.size}, {request.steps} steps, {SHORT[dtype]}"
    return _whole(lab, f"whole-{dtype}", title, lab.shapes.preset, dtype)


def _whole(lab: Lab, name: str, title: str, preset: str, dtype: str) -> Experiment:
    must, aim = WHOLE_BOUNDS[dtype]
    request = lab.shapes.embedded if preset == "tiny" else lab.shapes.whole
    figure = Figure(name, title, "s", FASTER, at_least(must), at_least(aim))
    return Experiment(f"video-{name}", (figure,), partial(do.end_to_end, lab, name, preset, request, dtype))


def defaults(lab: Lab) -> Experiment:
    """Both sides as they come."""
    request = lab.shapes.default
    title = f"default settings against diffusers' defaults, {request.size}, {request.steps} steps, end to end"
    figure = Figure("defaults", title, "s", FASTER, at_least(3.5), at_least(4.5))
    return Experiment("video-defaults", (figure,), partial(do.defaults, lab))


def decode_memory(lab: Lab) -> Experiment:
    """The decoder's peak."""
    title = f"peak memory of decoding {lab.shapes.decode_memory.size}, float32, ours exact over diffusers all-at-once"
    fits = f"the same, {lab.shapes.decode_memory_fits.size}"
    bounds = at_most(0.35), at_most(0.2)
    figures = (
        Figure("decode-memory", title, "GB", SMALLER, *bounds),
        Figure("decode-memory-fits", fits, "GB", SMALLER, *bounds),
    )
    return Experiment("memory-of-decode", figures, partial(do.decode_memory, lab, "float32"))


def whole_memory(lab: Lab, dtype: str) -> Experiment:
    """The whole program's peak: as it comes, and with what saves memory without waiting long."""
    title = f"peak memory end to end, full-size network, {lab.shapes.memory.size}, {SHORT[dtype]}"
    figures = (
        Figure(f"memory-{dtype}", f"{title}, as it comes", "GB", SMALLER),
        Figure(f"memory-lean-{dtype}", f"{title}, lean", "GB", SMALLER, at_most(0.6), at_most(0.4)),
        Figure(f"memory-streamed-{dtype}", f"{title}, weights streamed", "GB", SMALLER, at_most(0.6), at_most(0.4)),
        *predicted((f"predicted-{dtype}", f"predicted-lean-{dtype}"), SHORT[dtype]),
        Figure(f"predicted-streamed-{dtype}", f"{PEAKS}, {SHORT[dtype]}, streamed", "GB", PREDICTED, PREDICTABLE),
    )
    return Experiment(f"memory-of-video-{dtype}", figures, partial(do.whole_memory, lab, dtype))


def predicted(names: tuple[str, str], about: str) -> tuple[Figure, Figure]:
    """How well the plan foresaw the peaks of two ways to run."""
    return (
        Figure(names[0], f"{PEAKS}, {about}, fast", "GB", PREDICTED, PREDICTABLE),
        Figure(names[1], f"{PEAKS}, {about}, lean", "GB", PREDICTED, PREDICTABLE),
    )


def chunks(lab: Lab) -> Experiment:
    """Whether the chunk changes pixels."""
    title = f"chunk {', '.join(map(str, lab.shapes.chunks))}: largest difference of frames, float32"
    figure = Figure("chunks", title, "", "largest difference", at_most(2e-5), at_most(0))
    return Experiment("chunk-sizes", (figure,), partial(do.chunks, lab, "float32"))


def start_up(lab: Lab) -> Experiment:
    """From nothing to a first step."""
    figures = (
        Figure("import-bare", "time to import the package", "s", FASTER),
        Figure("import-pipeline", "time to import the pipeline's class", "s", FASTER),
        Figure("load", "time to load the full-size model, bf16", "s", FASTER),
        Figure("first-step", "time from the program's start to the first guided step, bf16", "s", FASTER),
    )
    return Experiment("start-up", figures, partial(do.start_up, lab, "bfloat16"))


def growth(lab: Lab) -> Experiment:
    """How time grows."""
    title = "U-Net step as {} grow, bf16, at the largest"
    names = {"frames": "frames", "pixels": "pixels of a frame", "batch": "videos at once"}
    figures = tuple(Figure(f"growth-{key}", title.format(words), "s", FASTER) for key, words in names.items())
    return Experiment("growth", figures, partial(do.growth, lab, "bfloat16"))

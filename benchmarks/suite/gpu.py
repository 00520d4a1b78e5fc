"""The figures of an accelerator, with the bounds of an H200."""

from __future__ import annotations

import dataclasses
from functools import partial

from . import cpu
from . import experiments as do
from .experiments import Lab
from .figures import Experiment, Figure, at_least, at_most

DTYPE = "bfloat16"
PEAK = "our peak"
# What the memory plan may use, in GB: a tenth less than the figure, for what it does not foresee.
FAST_GB, LEAN_GB = 10.8, 5.4


def suite(lab: Lab) -> list[Experiment]:
    """Every experiment of an accelerator."""
    first = [unet_step(lab), decode(lab), video(lab), compiled(lab)]
    return [*first, memory(lab), cpu.chunks(lab), cpu.growth(lab), cpu.start_up(lab)]


def unet_step(lab: Lab) -> Experiment:
    """A guided step; what it must reach is asked of a processor only."""
    found = cpu.unet_step(lab, DTYPE)
    figures = tuple(dataclasses.replace(each, must=None, aim=None) for each in found.figures)
    return dataclasses.replace(found, figures=figures)


def decode(lab: Lab) -> Experiment:
    """The decoder's own time, and against diffusers'."""
    title = f"decode of {lab.shapes.decode.size}, exact, bf16"
    figures = (
        Figure(f"decode-seconds-{DTYPE}", title, "s", "our time", at_most(0.6), at_most(0.3)),
        Figure(f"decode-{DTYPE}", f"{title}, against diffusers", "s", cpu.FASTER),
    )
    return Experiment(f"decoder-{DTYPE}", figures, partial(do.decode, lab, DTYPE))


def video(lab: Lab) -> Experiment:
    """A whole video, warm, beside diffusers as it comes."""
    request = lab.shapes.whole
    title = f"{request.size}, {request.steps} steps, exact, image to uint8 frames, warm"
    figures = (
        Figure("video-seconds", title, "s", "our time", at_most(9.0), at_most(7.2)),
        Figure("against-eager", "the same against diffusers eager", "s", cpu.FASTER, at_least(1.7), at_least(2.2)),
    )
    return Experiment("video", figures, partial(do.against_eager, lab, DTYPE))


def compiled(lab: Lab) -> Experiment:
    """A whole video, warm, beside diffusers compiled."""
    title = "the same against diffusers compiled"
    figure = Figure("against-compiled", title, "s", cpu.FASTER, at_least(1.4), at_least(1.8))
    return Experiment("video-compiled", (figure,), partial(do.against_compiled, lab, DTYPE))


def memory(lab: Lab) -> Experiment:
    """Peaks of the device's memory under the plans for two budgets."""
    size = lab.shapes.memory.size
    figures = (
        Figure(
            "memory-fast", f"peak memory, {size}, fast: --memory {FAST_GB}GB", "GB", PEAK, at_most(12), at_most(7.5)
        ),
        Figure("memory-lean", f"peak memory, {size}, lean: --memory {LEAN_GB}GB", "GB", PEAK, at_most(6), at_most(4.8)),
        *cpu.predicted(("predicted-fast", "predicted-lean"), size),
    )
    return Experiment("memory-of-video", figures, partial(do.device_memory, lab, DTYPE, (FAST_GB, LEAN_GB)))

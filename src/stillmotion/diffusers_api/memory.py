"""Running out of memory in the pipeline: one sentence that says which of its settings need less."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import StillmotionError
from ..pipelines.ladder import free_caches, is_out_of_memory

Result = TypeVar("Result")


def within_memory(run: Callable[[], Result], device: torch.device, sentence: Callable[[], str]) -> Result:
    """What `run` returns. Raises StillmotionError with that sentence where it runs out of memory.

    Nothing of the failed attempt is alive then, so that a smaller one may follow. Other errors pass.
    """
    try:
        return run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Out here, where no traceback keeps the tensors of the failed attempt.
    free_caches(device)
    raise StillmotionError(sentence())


def out_of_memory(stage: str, size: str, savings: list[str]) -> str:
    """One sentence; savings: what else could be set."""
    return f"memory ran out in {stage} at {size}; try {', '.join(savings[:-1])} or {savings[-1]}."


def savings_left(
    stage: str, *, videos: int, chunk: int, needs_chunk: bool, offload: str | None, is_on_cpu: bool, dtype: torch.dtype
) -> list[str]:
    """Which settings of a pipeline would lower what a stage needs, as a script says them; the cheapest first.

    needs_chunk: the memory of decoding grows with the frames that are decoded together, `chunk`.
    """
    found = []
    if videos > 1:
        found.append("num_videos_per_prompt=1 with one image")
    if stage == "decoding" and needs_chunk and chunk > 1:
        found.append("decode_chunk_size=1")
    if not is_on_cpu and offload != "sequential":
        found.append(f"enable_{'sequential' if offload else 'model'}_cpu_offload()")
    if dtype == torch.float32:
        found.append("torch_dtype=torch.bfloat16")
    return [*found, "fewer num_frames", "a smaller height and width"]

"""What is run: the shapes of the figures, and tiny ones on which the whole program is tried."""

from __future__ import annotations

import dataclasses

from .networks import Request


@dataclasses.dataclass(frozen=True, slots=True)
class Shapes:
    """The model and the request of each experiment."""

    preset: str
    step: Request
    decode: Request
    # The embedded model with its own steps and guidance, and the full-size network end to end.
    embedded: Request
    whole: Request
    default: Request
    decode_memory: Request
    # A smaller one, where the peer's decode fits into a machine of 16 GB.
    decode_memory_fits: Request
    chunked: Request
    chunks: tuple[int, ...]
    memory: Request
    first_step: Request
    # Lengths of a clip, sides of a square frame, and videos at once; the others stay as in the first entry's request.
    grows_from: Request
    frames: tuple[int, ...]
    sides: tuple[int, ...]
    batches: tuple[int, ...]
    # Turns of what takes seconds to a minute, and of what takes minutes.
    turns: int = 3
    long_turns: int = 3
    compiler: str = "inductor"


CPU = Shapes(
    preset="svd",
    step=Request(14, 256, 256),
    decode=Request(14, 256, 256),
    embedded=Request(14, 128, 80, steps=3, sigma_max=80.0, guidance=(1.0, 1.0)),
    whole=Request(14, 128, 128, steps=5),
    default=Request(14, 256, 256, steps=5),
    decode_memory=Request(25, 576, 320),
    decode_memory_fits=Request(14, 448, 256),
    chunked=Request(25, 128, 128),
    chunks=(1, 2, 5, 25),
    memory=Request(14, 256, 256, steps=2),
    first_step=Request(14, 128, 128),
    grows_from=Request(8, 128, 128),
    frames=(4, 8, 14, 25),
    sides=(64, 128, 192, 256),
    batches=(1, 2, 4),
)
GPU = dataclasses.replace(
    CPU,
    step=Request(25, 1024, 576),
    decode=Request(25, 1024, 576),
    whole=Request(25, 1024, 576, steps=25),
    chunked=Request(25, 512, 320),
    memory=Request(25, 1024, 576, steps=3),
    first_step=Request(25, 1024, 576),
    grows_from=Request(14, 512, 512),
    sides=(256, 512, 768, 1024),
)
SMALL = Shapes(
    preset="small",
    step=Request(3, 64, 64),
    decode=Request(3, 64, 64),
    embedded=Request(2, 64, 64, steps=1, sigma_max=80.0, guidance=(1.0, 1.0)),
    whole=Request(3, 64, 64, steps=2),
    default=Request(3, 64, 64, steps=2),
    decode_memory=Request(4, 96, 64),
    decode_memory_fits=Request(3, 96, 64),
    chunked=Request(4, 64, 64),
    chunks=(1, 2, 4),
    memory=Request(3, 64, 64, steps=1),
    first_step=Request(3, 64, 64),
    grows_from=Request(2, 64, 64),
    frames=(1, 3),
    sides=(64, 96),
    batches=(1, 2),
    turns=2,
    long_turns=1,
    compiler="eager",
)

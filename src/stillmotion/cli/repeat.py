"""stillmotion repeat"""

from __future__ import annotations

from ..tasks.repeat import Repeated, RepeatSettings, repeat
from .generate import as_json, print_made
from .options import app_of
from .printing import print_json
from .progress import Terminal


def run(settings: RepeatSettings) -> int:
    """Make the video again and say whether it is the same; 1 where it should be and is not."""
    with Terminal() as terminal:
        repeated = repeat(settings, terminal)
    failed = not repeated.changed and not repeated.is_identical
    if settings.json:
        tree = as_json(repeated.made) | {
            "identical": repeated.is_identical,
            "changed": list(repeated.changed),
            "differences": list(repeated.differences),
        }
        print_json(tree)
    else:
        print_made(repeated.made)
        print(_verdict(repeated))
    return 1 if failed else 0


def _verdict(repeated: Repeated) -> str:
    count = repeated.source.frames.count
    if repeated.is_identical:
        return f"identical: all {count} frames are the same, byte for byte"
    why = "; ".join((*repeated.changed, *repeated.differences))
    return f"different: the frames are not those of the recipe ({why or 'another processor, or another build'})"


app = app_of(RepeatSettings, run, positional=("file",))

"""stillmotion convert"""

from __future__ import annotations

from ..tasks.convert import ConvertSettings, convert
from .options import app_of
from .printing import print_json
from .progress import Terminal


def run(settings: ConvertSettings) -> int:
    """Convert and print where the result lies."""
    with Terminal() as terminal:
        path = convert(settings, terminal)
    print_json({"path": str(path)}) if settings.json else print(path)
    return 0


app = app_of(ConvertSettings, run, positional=("source", "target"))

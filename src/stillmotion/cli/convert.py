"""stillmotion convert"""

from __future__ import annotations

import json

from ..tasks.convert import ConvertSettings, convert
from .options import app_of
from .progress import Terminal


def run(settings: ConvertSettings) -> int:
    """Convert and print where the result lies."""
    with Terminal() as terminal:
        path = convert(settings, terminal)
    print(json.dumps({"path": str(path)}) if settings.json else path)
    return 0


app = app_of(ConvertSettings, run, positional=("source", "target"))

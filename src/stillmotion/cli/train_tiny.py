"""stillmotion train-tiny"""

from __future__ import annotations

from ..tasks.train_tiny import TrainTinySettings, train_and_export
from .options import app_of
from .printing import print_json
from .progress import Terminal


def run(settings: TrainTinySettings) -> int:
    """Train and print where the model lies."""
    with Terminal() as terminal:
        path = train_and_export(settings, terminal)
    if settings.json:
        print_json({"path": None if path is None else str(path)})
    elif path is not None:
        print(path)
    return 0


app = app_of(TrainTinySettings, run, positional=("folder",))

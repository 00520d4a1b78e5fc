"""What programs read: one JSON object a line."""

from __future__ import annotations

import json
from typing import Any

from ..config import spelled


def print_json(tree: Any) -> None:
    """Print a tree as one line of JSON that every reader takes: without NaN and infinities, which JSON lacks."""
    print(json.dumps(spelled(tree), ensure_ascii=False, allow_nan=False), flush=True)

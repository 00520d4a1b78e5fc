"""OpenCV, which the measures ask for: one place says how to get it."""

from __future__ import annotations

from ..errors import StillmotionError

try:
    import cv2 as cv2
except ImportError:
    raise StillmotionError(
        "OpenCV is missing; expected it to be there after `pip install stillmotion[eval]`."
    ) from None

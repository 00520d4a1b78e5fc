"""Measures of videos that need no downloaded weights. They ask for OpenCV, the extra `eval`."""

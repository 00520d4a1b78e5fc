"""Measures of videos that need no downloaded weights. All but freeze.py ask for OpenCV, the extra `eval`."""

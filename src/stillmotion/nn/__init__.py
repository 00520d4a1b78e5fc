"""Layers of the networks. Letters everywhere: b videos, t frames, c channels, h height, w width, n tokens, d width."""

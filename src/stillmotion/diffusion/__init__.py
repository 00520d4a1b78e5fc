"""Diffusion as functions over `denoise(x, sigma)`: the noise level is sigma everywhere, in float32."""

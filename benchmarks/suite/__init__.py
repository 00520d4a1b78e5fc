"""The benchmark against diffusers: what is measured, how, and where the figures go."""

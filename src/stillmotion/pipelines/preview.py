"""What a generation looks like while it runs: the clean latents that the network last guessed, as small pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from ..diffusion.precondition import Denoise
from ..errors import UsageError
from ..models.preview import LatentRGB, fit_latent_rgb


class Preview:
    """Every so many steps, all frames of the newest estimate, one map a video. It changes nothing of the generation."""

    def __init__(self, maps: Sequence[LatentRGB], every: int = 1) -> None:
        check_every(every)
        self._maps = tuple(maps)
        self._every = every
        self._estimate: Tensor | None = None

    def remembering(self, denoise: Denoise) -> Denoise:
        """The same denoiser; its estimates of clean latents are what is shown, for they are clear long before x is."""

        def remembered(x: Float[Tensor, "b ..."], sigma: Float[Tensor, ""]) -> Float[Tensor, "b ..."]:
            self._estimate = denoise(x, sigma)
            return self._estimate

        return remembered

    def newest(self) -> UInt8[np.ndarray, "b t h w 3"] | None:
        """The newest estimate, one pixel a latent pixel; None before there is one."""
        if self._estimate is None:
            return None
        rows = zip(self._maps, self._estimate, strict=True)
        return np.concatenate([to_rgb.frames(video[None]) for to_rgb, video in rows])

    def after(self, done: int, steps: int) -> UInt8[np.ndarray, "t h w 3"] | None:
        """The first video after `done` steps of `steps`: behind every so many and the last, else None."""
        shown = self.newest() if done % self._every == 0 or done == steps else None
        return None if shown is None else shown[0]


def preview_of(
    images: Float[Tensor, "n 3 h w"], scaled_latents: Float[Tensor, "n 1 c h2 w2"], times: int = 1, every: int = 1
) -> Preview:
    """The preview of `times` videos of each image, whose latents the condition holds already: nothing is encoded."""
    pairs = zip(scaled_latents, images, strict=True)
    maps = [fit_latent_rgb(latents, image[None]) for latents, image in pairs]
    return Preview([to_rgb for to_rgb in maps for _ in range(times)], every)


def check_every(every: int) -> None:
    """Raise UsageError unless `every` is a number of steps."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UsageError(f"a preview was asked for every {every} steps; expected a whole number of at least 1.")

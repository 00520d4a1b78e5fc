"""The networks that together animate an image."""

from __future__ import annotations

import dataclasses

from torch import nn

from .autoencoder import Autoencoder
from .image_encoder import ImageEncoder
from .unet import UNet


@dataclasses.dataclass(slots=True)
class Components:
    """One model's networks. `image_decoder` is a second autoencoder that decodes frame by frame, where one exists."""

    unet: UNet
    autoencoder: Autoencoder
    image_encoder: ImageEncoder
    image_decoder: Autoencoder | None = None

    def networks(self) -> dict[str, nn.Module]:
        """Every network that is present, by name, in the order in which a generation uses them."""
        found = {
            "image_encoder": self.image_encoder,
            "autoencoder": self.autoencoder,
            "unet": self.unet,
            "image_decoder": self.image_decoder,
        }
        return {name: network for name, network in found.items() if network is not None}

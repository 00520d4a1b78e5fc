"""The network that reads features of frames and says where shots change. It is small: 30,000 products a frame."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import config

STATES = ("none", "dissolve", "fade", "wipe")  # what a frame is part of
WEIGHTS = Path(__file__).parents[1] / "weights" / "shots" / "model.safetensors"


@config
class ShotNetworkConfig:
    """Sizes of the network."""

    features: int = 86
    width: int = 40
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)


class ShotNetwork(nn.Module):
    """Features of frames to five numbers each: the logit of a cut before it, and the logits of STATES."""

    mean: Tensor  # of each feature, over the training's frames
    deviation: Tensor

    def __init__(self, cfg: ShotNetworkConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(cfg.features))
        self.register_buffer("deviation", torch.ones(cfg.features))
        self.enter = nn.Conv1d(cfg.features, cfg.width, 1)
        self.blocks = nn.ModuleList(
            nn.Conv1d(cfg.width, cfg.width, 3, padding=dilation, dilation=dilation) for dilation in cfg.dilations
        )
        self.leave = nn.Conv1d(cfg.width, 1 + len(STATES), 1)
        self.halo = sum(cfg.dilations)

    def forward(self, features: Float[Tensor, "b t f"]) -> Float[Tensor, "b t 5"]:
        """Logits; the first and last `halo` frames see zeros beyond their neighbours."""
        known = ((features - self.mean) / self.deviation).clamp(-6, 6)
        hidden = F.relu(self.enter(known.transpose(1, 2)))
        for block in self.blocks:
            hidden = hidden + F.relu(block(hidden))
        return self.leave(hidden).transpose(1, 2)


@functools.cache
def load_shot_network(path: Path = WEIGHTS) -> ShotNetwork:
    """The trained network."""
    tensors = load_file(path)
    width, features, _ = tensors["enter.weight"].shape
    blocks = sum(name.startswith("blocks.") and name.endswith("weight") for name in tensors)
    network = ShotNetwork(
        ShotNetworkConfig(features=features, width=width, dilations=tuple(2**k for k in range(blocks)))
    )
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)

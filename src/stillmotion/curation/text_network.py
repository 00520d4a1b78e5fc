"""The network that says which parts of a picture are text. It sees grey pictures of a fixed shorter side."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import config

STRIDE = 4  # pixels a cell of the answer, each way
COARSEST = 32  # pixels: both sides of what the network sees are multiples of it
WEIGHTS = Path(__file__).parents[1] / "weights" / "text" / "model.safetensors"


@config
class TextNetworkConfig:
    """Channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size."""

    widths: tuple[int, ...] = (12, 24, 32, 44, 48)


class TextNetwork(nn.Module):
    """A grey picture to one logit for every STRIDE x STRIDE pixels: whether they lie in the box of a word."""

    def __init__(self, cfg: TextNetworkConfig) -> None:
        super().__init__()
        sizes = (1, *cfg.widths)
        self.down = nn.ModuleList(_layer(before, after, stride=2) for before, after in itertools.pairwise(sizes))
        self.look = nn.ModuleList(_layer(width, width) for width in cfg.widths[1:])
        self.up = nn.ModuleList(
            _layer(coarse, fine, size=1) for fine, coarse in zip(cfg.widths[1:-1], cfg.widths[2:], strict=True)
        )
        self.join = nn.ModuleList(_layer(width, width) for width in cfg.widths[1:-1])
        self.leave = nn.Conv2d(cfg.widths[1], 1, 1)

    def forward(self, grey: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b h4 w4"]:
        """Logits; the picture has values in [-1, 1] and sides that are multiples of COARSEST."""
        hidden = self.down[0](grey)
        levels = []
        for down, look in zip(self.down[1:], self.look, strict=True):
            hidden = down(hidden)
            hidden = hidden + look(hidden)
            levels.append(hidden)
        hidden = levels.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            fine = levels.pop()
            hidden = fine + F.interpolate(up(hidden), size=fine.shape[-2:], mode="nearest")
            hidden = hidden + join(hidden)
        return self.leave(hidden)[:, 0]


def _layer(before: int, after: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


@functools.cache
def load_text_network(path: Path = WEIGHTS) -> TextNetwork:
    """The trained network, in float32; the file holds half precision."""
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    firsts = sorted(name for name in tensors if name.startswith("down.") and name.endswith(".0.weight"))
    widths = tuple(len(tensors[name]) for name in firsts)
    network = TextNetwork(TextNetworkConfig(widths=widths))
    # Counts of batches, which only training reads, are not in the file.
    network.load_state_dict(tensors, strict=False)
    return network.eval().requires_grad_(False)

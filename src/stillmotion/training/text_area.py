"""Trains the network that finds text, on rendered text alone. The embedded weights come from here."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ..config import config
from ..curation.text_network import STRIDE, TextNetwork, TextNetworkConfig, load_text_network
from ..evaluation.opencv import cv2
from ..events import Progress, Watch, unwatched
from ..files import atomic_path
from .lettering import LARGEST, draw_lettered
from .lookalikes import Picture

Example = tuple[UInt8[np.ndarray, "h w"], Float[np.ndarray, "h4 w4"]]


@config
class TextTraining:
    """How the network is trained. The figures are measured on seeds from 10**8 on."""

    steps: int = 1500
    batch: int = 16
    # So many of a batch are new; the rest are drawn from the latest `kept`, in other light. Rendering takes longest.
    new: int = 7
    kept: int = 512
    size_px: int = 192
    # The largest letters, in sides of the picture.
    largest: float = LARGEST
    rate: float = 4e-3
    first_seed: int = 0
    # Weights to go on from, of any widths; else it begins from nothing.
    init: Path | None = None
    widths: tuple[int, ...] = TextNetworkConfig().widths


def train_text_network(
    cfg: TextTraining, path: Path, photographs: Sequence[Picture] = (), watch: Watch = unwatched
) -> None:
    """Train and write the weights; a pure function of the settings and the photographs, which must show no text."""
    network = fit(cfg, photographs, watch)
    kept = {name: each.half().contiguous() for name, each in network.state_dict().items() if "num_batches" not in name}
    with atomic_path(path) as temporary:
        save_file(kept, temporary)


def fit(cfg: TextTraining, photographs: Sequence[Picture] = (), watch: Watch = unwatched) -> TextNetwork:
    """A trained network."""
    torch.manual_seed(cfg.first_seed)
    network = TextNetwork(TextNetworkConfig(widths=cfg.widths))
    if cfg.init is not None:
        network = copy.deepcopy(load_text_network(cfg.init)).train().requires_grad_(True)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=cfg.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _schedule(cfg.steps))
    rng = np.random.default_rng(cfg.first_seed)
    kept: deque[Example] = deque(maxlen=cfg.kept)
    for step in range(cfg.steps):
        watch(Progress("train", step, cfg.steps))
        fresh = cfg.batch if not kept else cfg.new
        seeds = range(cfg.first_seed + cfg.batch * step, cfg.first_seed + cfg.batch * step + fresh)
        kept.extend(draw_example(cfg, seed, photographs) for seed in seeds)
        chosen = [*range(len(kept) - fresh, len(kept)), *rng.integers(len(kept), size=cfg.batch - fresh)]
        grey, covered = _batch(rng, [kept[each] for each in chosen])
        loss = F.binary_cross_entropy_with_logits(network(grey), covered)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return network.eval()


def _schedule(steps: int) -> Callable[[int], float]:
    return lambda step: min(1.0, (step + 1) / 50) * (0.5 + 0.5 * float(np.cos(np.pi * step / steps))) + 0.002


def draw_example(cfg: TextTraining, seed: int, photographs: Sequence[Picture]) -> Example:
    """A grey picture, and the share of each cell that boxes cover."""
    drawn = draw_lettered(seed, (cfg.size_px, cfg.size_px), photographs, largest=cfg.largest)
    side = cfg.size_px // STRIDE
    covered = cv2.resize(drawn.boxes.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(drawn.picture, cv2.COLOR_RGB2GRAY), covered


def _batch(
    rng: np.random.Generator, examples: Sequence[Example]
) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b h4 w4"]]:
    """Pictures as the network sees them, each in its own light, some as negatives."""
    pixels = torch.from_numpy(np.stack([grey for grey, _ in examples]))[:, None].float() / 127.5 - 1
    gain = rng.uniform(0.5, 1.2, len(examples)) * rng.choice((1, -1), len(examples))
    light = torch.from_numpy(np.stack([gain, rng.normal(0, 0.2, len(examples))])).float()[..., None, None, None]
    covered = torch.from_numpy(np.stack([each for _, each in examples]))
    return (pixels * light[0] + light[1]).clamp(-1, 1), covered

"""Trains the network that finds transitions, on generated edits alone. The embedded weights come from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ..config import config
from ..curation.records import Transition
from ..curation.shot_features import HALO, features
from ..curation.shot_network import STATES, ShotNetwork, ShotNetworkConfig
from ..curation.thumbnails import CHROMA_BYTES, CHROMA_PX, LUMA_BYTES, LUMA_PX, shrink
from ..evaluation.opencv import cv2
from ..events import Progress, Watch, unwatched
from ..files import atomic_path
from .edits import EditConfig, draw_edit, edit_frames
from .footage import Picture

CUT_WEIGHT = 4.0  # of a frame after a cut, beside one that is not: there are a hundred times fewer

Example = tuple[Float[np.ndarray, "t f"], Int[np.ndarray, " t"], Float[np.ndarray, " t"]]


@config
class ShotTraining:
    """How the network is trained. Held-out seeds are never among `first_seed` to `first_seed + videos - 1`."""

    first_seed: int = 20_000
    videos: int = 200
    # Small frames: the network sees 48x27 of them. Videos take these in turn.
    sizes: tuple[tuple[int, int], ...] = ((192, 108), (208, 116), (168, 126), (224, 96), (120, 200), (192, 108))
    steps: int = 1500
    batch: int = 16
    frames: int = 384
    rate: float = 3e-3
    noise: float = 0.05
    width: int = 40


def thumbnail_row(picture: Picture) -> UInt8[np.ndarray, " n"]:
    """The thumbnail of a rendered frame, as `curation.thumbnails` makes it of a decoded one."""
    luma, red, blue = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb))
    half = (picture.shape[1] // 2, picture.shape[0] // 2)
    row = np.empty(LUMA_BYTES + 2 * CHROMA_BYTES, np.uint8)
    row[:LUMA_BYTES] = shrink(luma, LUMA_PX).ravel()
    row[LUMA_BYTES:-CHROMA_BYTES] = shrink(cv2.resize(blue, half), CHROMA_PX).ravel()
    row[-CHROMA_BYTES:] = shrink(cv2.resize(red, half), CHROMA_PX).ravel()
    return row


def labels(transitions: Sequence[Transition], frames: int) -> tuple[Int[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """What each frame is part of, as a place in STATES, and 1 at the first frame after each cut."""
    state, cut = np.zeros(frames, np.int64), np.zeros(frames, np.float32)
    for each in transitions:
        if each.kind == "cut":
            cut[each.after] = 1
        else:
            state[each.before + 1 : each.after] = STATES.index(each.kind)
    return state, cut


def draw_example(cfg: ShotTraining, seed: int, photographs: Sequence[Picture]) -> Example:
    """Features and labels of the edited video of this seed, which is rendered and not compressed."""
    width, height = cfg.sizes[seed % len(cfg.sizes)]
    edit = draw_edit(EditConfig(width=width, height=height, gradual_frames=(6, 54)), seed, photographs)
    rows = np.stack([thumbnail_row(picture) for picture in edit_frames(edit)])
    return features(np.pad(rows, ((HALO, HALO), (0, 0)), mode="edge")), *labels(edit.transitions, edit.frames)


def train_shot_network(
    cfg: ShotTraining, path: Path, photographs: Sequence[Picture] = (), watch: Watch = unwatched
) -> None:
    """Generate the videos, train, and write the weights; a pure function of the settings and the photographs."""
    examples = []
    for number in range(cfg.videos):
        watch(Progress("edits", number, cfg.videos))
        examples.append(draw_example(cfg, cfg.first_seed + number, photographs))
    network = fit(cfg, examples, watch)
    with atomic_path(path) as temporary:
        save_file(network.state_dict(), temporary)


def fit(cfg: ShotTraining, examples: Sequence[Example], watch: Watch = unwatched) -> ShotNetwork:
    """A network trained on these examples."""
    torch.manual_seed(cfg.first_seed)
    rng = np.random.default_rng(cfg.first_seed)
    known = np.concatenate([example[0] for example in examples])
    network = ShotNetwork(ShotNetworkConfig(features=known.shape[1], width=cfg.width))
    network.mean.copy_(torch.from_numpy(known.mean(0)))
    network.deviation.copy_(torch.from_numpy(known.std(0) + 1e-3))
    optimiser = torch.optim.AdamW(network.parameters(), lr=cfg.rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _schedule(cfg.steps))
    for step, (inputs, states, cuts) in zip(range(cfg.steps), _batches(cfg, examples, rng), strict=False):
        watch(Progress("train", step, cfg.steps))
        noise = cfg.noise * network.deviation * torch.randn_like(inputs) if rng.random() < 0.5 else 0
        loss = _loss(network(inputs + noise), states, cuts, network.halo)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return network


def _schedule(steps: int) -> Callable[[int], float]:
    return lambda step: min(1.0, (step + 1) / 50) * (0.5 + 0.5 * float(np.cos(np.pi * step / max(1, steps)))) + 0.003


def _batches(
    cfg: ShotTraining, examples: Sequence[Example], rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Stretches of videos drawn at random, for ever."""
    while True:
        drawn = []
        for _ in range(cfg.batch):
            example = examples[int(rng.integers(len(examples)))]
            start = int(rng.integers(max(1, len(example[0]) - cfg.frames)))
            drawn.append([part[start : start + cfg.frames] for part in example])
        length = min(len(part[0]) for part in drawn)
        inputs, states, cuts = (torch.from_numpy(np.stack([part[k][:length] for part in drawn])) for k in range(3))
        yield inputs, states, cuts


def _loss(logits: Tensor, states: Tensor, cuts: Tensor, halo: int) -> Tensor:
    """Of the frames that see enough on both sides."""
    logits, states, cuts = (each[:, halo:-halo] for each in (logits, states, cuts))
    weight = torch.tensor(CUT_WEIGHT)
    cut = F.binary_cross_entropy_with_logits(logits[..., 0], cuts, pos_weight=weight)
    return 4 * cut + F.cross_entropy(logits[..., 1:].flatten(0, 1), states.flatten())

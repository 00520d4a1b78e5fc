from __future__ import annotations

import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Blip2ForConditionalGeneration

from stillmotion.config import parse, to_tree
from stillmotion.curation.captions import (
    CocaCaption,
    ImageCaption,
    SummaryCaption,
    VideoCaption,
    captioner,
    one_line,
    pick_caption,
)
from stillmotion.curation.lookers import network_lookers
from stillmotion.curation.pretrained import Pretrained
from stillmotion.errors import ConfigError, StillmotionError

from .looks import look_at
from .tiny_networks import save_blip2, save_language_model, save_llava

FRAMES = np.random.default_rng(0).integers(0, 256, (8, 40, 60, 3), np.uint8)


def test_an_image_captioner_says_what_blip2_says_of_the_middle_frame(tmp_path: Path) -> None:
    folder = save_blip2(tmp_path / "blip2")
    given = captioner(ImageCaption(network=Pretrained(model=str(folder)), max_tokens=6))
    said = given.score(look_at(FRAMES[:3]))["caption.image"]
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    pixels = processor(images=Image.fromarray(FRAMES[1]), return_tensors="pt")
    tokens = model.generate(**pixels, max_new_tokens=6, do_sample=False)
    assert said == one_line(processor.tokenizer.decode(tokens[0], skip_special_tokens=True)) != ""
    assert said == given.score(look_at(FRAMES[:3]))["caption.image"]


def test_a_prompt_is_not_part_of_the_caption(tmp_path: Path) -> None:
    folder = save_blip2(tmp_path / "blip2")
    plain = ImageCaption(network=Pretrained(model=str(folder)), max_tokens=5)
    asked_for = ImageCaption(network=plain.network, max_tokens=5, prompt="two cat")
    asked = captioner(asked_for)
    words = str(asked.score(look_at(FRAMES[:3]))["caption.image"]).split()
    assert len(words) <= 5 and words[:2] != ["two", "cat"]
    (one,), (other,) = (network_lookers([each], None) for each in (plain, asked_for))
    assert one.version != other.version


def test_a_video_captioner_sees_all_frames_and_repeats_none_of_the_question(tmp_path: Path) -> None:
    folder = save_llava(tmp_path / "llava")
    given = captioner(VideoCaption(network=Pretrained(model=str(folder)), frames=4, max_tokens=6))
    assert given.frames == 4
    said = str(given.score(look_at(FRAMES[:4]))["caption.video"])
    assert 0 < len(said.split()) <= 6
    other = FRAMES[:4].copy()
    other[3] = 255 - other[3]
    logits = [_first_logits(given, frames) for frames in (FRAMES[:4], other)]
    assert not torch.equal(*logits)  # the last frame reaches the network


def _first_logits(given: object, frames: np.ndarray) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = given.model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[attr-defined]
    given.score(look_at(frames))  # type: ignore[attr-defined]
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("chats", [True, False])
def test_a_summary_is_made_of_both_captions(tmp_path: Path, chats: bool) -> None:
    folder = save_language_model(tmp_path / "language", chats)
    given = captioner(SummaryCaption(network=Pretrained(model=str(folder)), max_tokens=5))
    seen: list[torch.Tensor] = []
    original = given.model.generate  # type: ignore[attr-defined]
    given.model.generate = lambda **given: seen.append(given["input_ids"]) or original(**given)  # type: ignore[attr-defined]
    said = given.score(look_at(FRAMES[:3], {"coca": "a red ball", "video": "the ball moves left"}))["caption.summary"]
    asked = given.tokenizer.decode(seen[0][0])  # type: ignore[attr-defined]
    assert "a red ball" in asked and "the ball moves left" in asked
    assert len(str(said).split()) <= 5


def test_a_summary_of_one_caption_is_that_caption(tmp_path: Path) -> None:
    given = captioner(SummaryCaption(network=Pretrained(model=str(save_language_model(tmp_path / "language")))))
    assert given.score(look_at(FRAMES[:3], {"video": "a cat"})) == {"caption.summary": "a cat"}
    assert given.score(look_at(FRAMES[:3])) == {"caption.summary": ""}


def test_coca_says_which_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(StillmotionError, match="pip install open_clip_torch"):
        captioner(CocaCaption())


def test_coca_reads_the_middle_frame_through_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    class Coca(torch.nn.Module):
        def generate(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures.flatten(1)[:, :1]

    package = types.SimpleNamespace(
        create_model_and_transforms=lambda name, pretrained, device: (Coca(), None, lambda p: torch.tensor(p.size)),
        decode=lambda tokens: f"<start_of_text>a ball {int(tokens[0])} wide <end_of_text> and more",
    )
    monkeypatch.setitem(sys.modules, "open_clip", package)
    assert captioner(CocaCaption()).score(look_at(FRAMES[:3])) == {"caption.coca": "a ball 60 wide"}
    with pytest.raises(StillmotionError, match="is a pickle"):
        captioner(CocaCaption(weights="coca.pt"))


def test_settings_survive_yaml_and_refuse_what_they_do_not_know() -> None:
    settings = VideoCaption(network=Pretrained(model="a/b", revision="main"), frames=3)
    assert parse(VideoCaption, to_tree(settings)) == settings
    with pytest.raises(ConfigError, match="frames"):
        parse(VideoCaption, {"frames": 1})


def test_a_caption_is_one_line_without_control_characters() -> None:
    assert one_line("  a\x1b[31m red\n\tball\u2028 \u202e rolls\0 ") == "a [31m red ball rolls"
    assert len(one_line("ball " * 1000)) <= 1000


def test_training_draws_captions_by_their_shares_and_the_same_ones_again() -> None:
    captions = {"coca": "c", "video": "v", "summary": "s"}
    drawn = [pick_caption(captions, 1, step, "clip")[0] for step in range(4000)]
    counts = Counter(drawn)
    for name, share in (("coca", 0.5), ("video", 0.25), ("summary", 0.25)):
        assert counts[name] / 4000 == pytest.approx(share, abs=0.03)  # four deviations
    assert drawn == [pick_caption(captions, 1, step, "clip")[0] for step in range(4000)]
    assert drawn != [pick_caption(captions, 2, step, "clip")[0] for step in range(4000)]
    assert pick_caption({"coca": "", "video": "v"}, 1, 1, "clip") == ("video", "v")
    with pytest.raises(StillmotionError, match="has no caption"):
        pick_caption({"coca": ""}, 1, 1, "clip")

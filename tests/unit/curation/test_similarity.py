from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from stillmotion.curation.pretrained import Pretrained, folder_of, version_of
from stillmotion.curation.scorer import Look
from stillmotion.curation.similarity import AestheticHead, Similarity, SimilarityConfig
from stillmotion.errors import CheckpointError, HubError

from .looks import look_at
from .tiny_networks import SIDE, save_clip

CAPTIONS = {"image": "a red ball", "video": "the ball moves left fast"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def look() -> Look:
    frames = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    return look_at(frames, CAPTIONS)


def settings(folder: Path, head: Path | None = None) -> SimilarityConfig:
    return SimilarityConfig(clip=Pretrained(model=str(folder)), aesthetic=head)


def test_similarities_are_the_cosines_that_transformers_own_forward_gives(folder: Path, look: Look) -> None:
    columns = Similarity(settings(folder)).score(look)
    model = CLIPModel.from_pretrained(folder)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = ((torch.from_numpy(look.frames) / 255 - mean) / deviation).permute(0, 3, 1, 2)
    words = AutoTokenizer.from_pretrained(folder)(
        list(CAPTIONS.values()), padding=True, return_tensors="pt", return_token_type_ids=False
    )
    with torch.inference_mode():
        out = model(pixel_values=pixels, **words)
        cosines = (out.logits_per_image / model.logit_scale.exp()).mean(0)
    given = [columns["clip.similarity.image"], columns["clip.similarity.video"]]
    torch.testing.assert_close(torch.tensor(given), cosines, atol=1e-5, rtol=0)
    assert columns["clip.similarity"] == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert np.linalg.norm(columns["clip.embedding"]) == pytest.approx(1, abs=1e-6)


def test_a_clip_without_captions_has_an_embedding_and_no_similarity(folder: Path, look: Look) -> None:
    assert set(Similarity(settings(folder)).score(look_at(look.frames))) == {"clip.embedding"}


def test_a_long_caption_is_cut_off_where_the_tower_ends(folder: Path, look: Look) -> None:
    columns = Similarity(settings(folder)).score(look_at(look.frames, {"image": "a red ball " * 100}))
    assert -1 <= columns["clip.similarity"] <= 1


def test_the_aesthetic_score_is_the_product_of_the_layers(folder: Path, look: Look, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    one, two = rng.standard_normal((4, 8)), rng.standard_normal((1, 4))
    bias = rng.standard_normal(4)
    layers = {"layers.0.weight": one, "layers.0.bias": bias, "layers.10.weight": two, "layers.10.bias": np.ones(1)}
    save_file({name: torch.tensor(value).float() for name, value in layers.items()}, tmp_path / "head.safetensors")
    similarity = Similarity(settings(folder, tmp_path / "head.safetensors"))
    embedded = similarity.embed_pictures(look.frames).double().numpy()
    expected = ((embedded @ one.T + bias) @ two.T + 1).mean()
    assert similarity.score(look)["aesthetic.score"] == pytest.approx(expected, abs=1e-5)


def test_a_single_linear_layer_is_a_head_too(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1, 8), "bias": torch.ones(1)}, tmp_path / "head.safetensors")
    assert AestheticHead(tmp_path / "head.safetensors")(torch.ones(2, 8)).tolist() == [9, 9]


@pytest.mark.parametrize("shapes", [{}, {"weight": (2, 8)}, {"layers.0.weight": (4, 8), "layers.2.weight": (1, 5)}])
def test_a_head_that_does_not_end_in_one_number_is_refused(tmp_path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match="expected a row that ends in one number"):
        AestheticHead(tmp_path / "head.safetensors")


def test_a_head_for_another_clip_or_a_broken_file_is_refused(folder: Path, look: Look, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1, 9)}, tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match="takes embeddings of 9 numbers; expected 8"):
        Similarity(settings(folder, tmp_path / "head.safetensors")).score(look)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        AestheticHead(tmp_path / "text.safetensors")


def test_the_version_names_the_weights(folder: Path, tmp_path: Path) -> None:
    other = save_clip(tmp_path / "other", seed=1)
    assert version_of(folder) == version_of(folder) != version_of(other)


def test_weights_that_are_missing_or_no_safetensors_are_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    broken = save_clip(tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    torch.save(tensors, broken / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="expected a whole model with safetensors"):
        Similarity(settings(broken))


def test_a_hub_name_that_is_not_in_the_cache_says_what_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="hf download"):
        folder_of(Pretrained(model="nobody/nothing"))

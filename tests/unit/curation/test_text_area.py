from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stillmotion.curation.pretrained import Pretrained
from stillmotion.curation.text_area import (
    CraftText,
    OwnText,
    OwnTextFinder,
    PaddleText,
    TextArea,
    filled,
    text_area,
    text_finder,
)
from stillmotion.curation.text_craft import Craft, CraftConfig, find_craft_boxes, load_craft, words_of
from stillmotion.curation.text_network import WEIGHTS, TextNetwork, TextNetworkConfig, load_text_network
from stillmotion.errors import CheckpointError, StillmotionError
from stillmotion.evaluation.opencv import cv2
from stillmotion.training.lettering import FACES, HELD_OUT_FACES, draw_lettered
from stillmotion.training.lookalikes import LOOKALIKES, draw_ground
from stillmotion.training.text_area import TextTraining, draw_example, train_text_network

from .looks import look_at


def titled(text: str = "A TITLE", size: int = 3) -> np.ndarray:
    frame = np.full((360, 640, 3), (40, 60, 90), np.uint8)
    return cv2.putText(frame, text, (60, 200), cv2.FONT_HERSHEY_SIMPLEX, size, (250, 250, 250), 6, cv2.LINE_AA)


class TestOwnNetwork:
    def test_is_small(self) -> None:
        assert WEIGHTS.stat().st_size < 300_000

    def test_rendered_text_is_measured(self) -> None:
        finder, errors, areas = OwnTextFinder(), [], []
        for seed in range(10**8, 10**8 + 14):
            drawn = draw_lettered(seed, (512, 288), [], HELD_OUT_FACES if seed % 2 else FACES)
            areas.append(drawn.area)
            errors.append(abs(text_area(drawn.picture, finder) - drawn.area))
        assert np.mean(errors) < 0.02 < np.mean(areas)

    def test_a_title_is_over_the_papers_limit_and_a_plain_frame_is_not(self) -> None:
        finder = OwnTextFinder()
        assert text_area(titled(), finder) > 0.07
        assert text_area(np.full((360, 640, 3), 90, np.uint8), finder) < 0.005

    def test_finds_it_where_it_is(self) -> None:
        found = OwnTextFinder().find(titled())
        rows, columns = np.nonzero(found)
        assert found.shape == (72, 128)
        assert 20 < rows.mean() < 45 and columns.min() > 5

    @pytest.mark.parametrize("size", [(180, 320), (720, 1280), (640, 360)])
    def test_does_not_depend_on_the_size(self, size: tuple[int, int]) -> None:
        finder = OwnTextFinder()
        picture = np.rot90(titled()) if size[0] > size[1] else titled()
        picture = np.ascontiguousarray(picture)
        other = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
        assert text_area(other, finder) == pytest.approx(text_area(picture, finder), abs=0.02)

    @pytest.mark.parametrize("shape", [(1, 1), (2, 900), (900, 2), (33, 17)])
    def test_odd_sizes_pass(self, shape: tuple[int, int]) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        assert 0 <= text_area(picture, OwnTextFinder()) <= 1


class TestScorer:
    def test_the_frame_with_the_most_text_counts(self) -> None:
        plain = np.full_like(titled(), 70)
        scorer = TextArea(OwnText())
        found = scorer.score(look_at(np.stack([plain, plain, titled()])))
        assert found["text.area"] > 0.07
        assert found["text.area_mean"] == pytest.approx(found["text.area"] / 3, abs=0.003)

    def test_has_a_version_that_names_the_weights(self) -> None:
        scorer = TextArea()
        assert scorer.frames == 3 and scorer.name == "text" and OwnTextFinder().version in scorer.version


class TestBoxes:
    def test_a_place_counts_once(self) -> None:
        box = np.array([[10, 10], [29, 10], [29, 19], [10, 19]], np.float32)
        covered = filled([box, box, box + 5], 50, 100)
        assert covered.sum() == 200 + 200 - 15 * 5

    def test_beyond_the_frame_is_cut_off(self) -> None:
        box = np.array([[-50, -50], [500, -50], [500, 500], [-50, 500]])
        assert filled([box], 20, 30).all() and not filled([], 20, 30).any()


@pytest.fixture(scope="module")
def craft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real class with random weights, a sixteenth as wide."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("craft")
    tensors = Craft(CraftConfig(width=4)).state_dict()
    save_file({f"module.{name}": each for name, each in tensors.items()}, folder / "craft.safetensors")
    return folder


class TestCraft:
    def test_names_and_shapes_are_those_of_the_release(self) -> None:
        with torch.device("meta"):
            shapes = {name: tuple(each.shape) for name, each in Craft(CraftConfig()).state_dict().items()}
        assert shapes["basenet.slice1.0.weight"] == (64, 3, 3, 3)
        assert shapes["basenet.slice1.10.weight"] == (128, 128, 3, 3) and shapes["basenet.slice1.11.running_var"]
        assert shapes["basenet.slice2.17.weight"] == (256, 256, 3, 3)
        assert shapes["basenet.slice3.20.weight"] == (256, 256, 3, 3)
        assert shapes["basenet.slice4.37.weight"] == (512, 512, 3, 3)
        assert shapes["basenet.slice5.1.weight"] == (1024, 512, 3, 3)
        assert shapes["upconv1.conv.0.weight"] == (512, 1536, 1, 1)
        assert shapes["upconv4.conv.3.weight"] == (32, 64, 3, 3)
        assert shapes["conv_cls.8.weight"] == (2, 16, 1, 1)

    def test_is_loaded_and_asked(self, craft: Path) -> None:
        finder = text_finder(CraftText(network=Pretrained(model=str(craft))))
        assert finder.find(titled()).shape == (360, 640)

    def test_gives_two_maps_of_half_the_size(self, craft: Path) -> None:
        assert load_craft(craft)(torch.zeros(1, 3, 64, 96)).shape == (1, 2, 32, 48)

    def test_a_word_is_what_links_join(self) -> None:
        text, link = np.zeros((40, 80), np.float32), np.zeros((40, 80), np.float32)
        text[10:20, 10:20] = text[10:20, 26:36] = text[10:20, 55:65] = 0.9
        link[13:17, 20:26] = 0.8
        text[30:34, 10:20] = 0.5  # never sure enough
        boxes = words_of(text, link)
        widths = sorted(float(np.ptp(box[:, 0])) for box in boxes)
        assert len(boxes) == 2 and widths[0] < 16 and 25 <= widths[1] < 34

    def test_corners_are_in_pixels_of_the_picture(self) -> None:
        class Sure(torch.nn.Module):
            def forward(self, pixels: torch.Tensor) -> torch.Tensor:
                maps = torch.zeros(1, 2, pixels.shape[2] // 2, pixels.shape[3] // 2)
                maps[:, 0, 20:40, 100:200] = 0.9
                return maps

        (box,) = find_craft_boxes(Sure(), np.zeros((1440, 2560, 3), np.uint8))  # type: ignore[arg-type]
        assert box.min(0) == pytest.approx([400, 80], abs=30) and box.max(0) == pytest.approx([800, 160], abs=30)

    def test_other_weights_get_a_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="0 safetensors files"):
            load_craft(tmp_path)
        save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
        with pytest.raises(CheckpointError, match="CRAFT"):
            load_craft(tmp_path)
        (tmp_path / "a.safetensors").write_bytes(b"\x00" * 3)
        with pytest.raises(CheckpointError, match="CRAFT"):
            load_craft(tmp_path)

    def test_weights_that_lack_some_are_refused(self, craft: Path, tmp_path: Path) -> None:
        tensors = Craft(CraftConfig(width=4)).state_dict()
        del tensors["conv_cls.8.bias"]
        save_file(tensors, tmp_path / "a.safetensors")
        with pytest.raises(CheckpointError, match=r"conv_cls\.8\.bias"):
            load_craft(tmp_path)


class TestPaddle:
    def test_a_missing_package_gets_a_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "rapidocr", None)
        with pytest.raises(StillmotionError, match="pip install rapidocr"):
            text_finder(PaddleText())

    def test_its_boxes_become_an_area(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Engine:
            def __call__(
                self, picture: np.ndarray, use_det: bool, use_cls: bool, use_rec: bool
            ) -> types.SimpleNamespace:
                assert use_det and not use_cls and not use_rec
                is_blue = picture[0, 0, 0] == 90  # in OpenCV's order
                box = np.array([[[0, 0], [99, 0], [99, 49], [0, 49]]], np.float32)
                return types.SimpleNamespace(boxes=box if is_blue else None)

        monkeypatch.setitem(sys.modules, "rapidocr", types.SimpleNamespace(RapidOCR=Engine))
        monkeypatch.setattr("importlib.metadata.version", lambda name: "3.0")
        finder = text_finder(PaddleText())
        assert text_area(titled(), finder) == pytest.approx(5000 / (360 * 640))
        assert text_area(np.zeros((10, 10, 3), np.uint8), finder) == 0


class TestTraining:
    def test_boxes_cover_the_ink_and_are_a_function_of_the_seed(self) -> None:
        drawn = [draw_lettered(seed, (160, 96), [], bare=0.0) for seed in (5, 5, 6)]
        assert np.array_equal(drawn[0].picture, drawn[1].picture) and not np.array_equal(drawn[0].boxes, drawn[2].boxes)
        assert 0 < drawn[0].area < 1 and drawn[0].picture.shape == (96, 160, 3)

    def test_every_lookalike_draws(self) -> None:
        rng = np.random.default_rng(0)
        ground = draw_ground(rng, (96, 64), [])
        for draw in LOOKALIKES:
            assert draw(rng, ground).shape == ground.shape

    def test_an_example_is_what_the_network_reads(self) -> None:
        grey, covered = draw_example(TextTraining(size_px=64), 3, [])
        assert grey.shape == (64, 64) and covered.shape == (16, 16) and 0 <= covered.min() <= covered.max() <= 1

    def test_weights_that_are_written_are_read(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        train_text_network(TextTraining(steps=2, batch=3, new=1, size_px=64, widths=(4, 6, 8, 8, 8)), path)
        network = load_text_network(path)
        assert network(torch.zeros(1, 1, 64, 96)).shape == (1, 16, 24)

    def test_training_goes_on_from_given_weights(self, tmp_path: Path) -> None:
        first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
        cfg = TextTraining(steps=2, batch=3, new=1, size_px=64, widths=(4, 6, 8, 8, 8))
        train_text_network(cfg, first)
        train_text_network(
            dataclasses.replace(cfg, steps=1, rate=1e-6, init=first, widths=(12, 24, 32, 44, 48)), second
        )
        before, after = (dict(load_text_network(path).named_parameters()) for path in (first, second))
        assert all(torch.allclose(after[name], each, atol=2e-3) for name, each in before.items())

    def test_the_shape_of_the_network_is_in_its_weights(self) -> None:
        widths = TextNetworkConfig().widths
        loaded = load_text_network()
        whole = TextNetwork(TextNetworkConfig(widths=widths))
        assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in whole.named_parameters()}

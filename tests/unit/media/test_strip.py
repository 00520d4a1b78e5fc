"""Preview files: every frame is there, an old one is replaced whole, and nobody's own file is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillmotion.errors import StillmotionError, UsageError
from stillmotion.media.document import read_document
from stillmotion.media.strip import MARK, check_strip, write_strip


def ramp(count: int = 3, height: int = 10, width: int = 16) -> np.ndarray:
    """Frame i is a grey of its own, with a red left half."""
    frames = np.empty((count, height, width, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[:] = 40 + 60 * number
        frame[:, : width // 2] = (200, 0, 0)
    return frames


@pytest.mark.parametrize("suffix", ["gif", "webp", "GIF"])
def test_an_animation_holds_every_frame_enlarged_in_its_colours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"now.{suffix}"
    write_strip(path, ramp(), 8.0)
    assert read_document(path) == MARK
    with Image.open(path) as image:
        assert image.size == (128, 80) and image.n_frames == 3  # type: ignore[attr-defined]
        for number in range(3):
            image.seek(number)
            pixels = np.asarray(image.convert("RGB")).astype(int)
            assert abs(pixels[:, 90:] - (40 + 60 * number)).max() <= 8
            assert abs(pixels[:, :32] - (200, 0, 0)).max() <= 12
        assert image.info["duration"] in (120, 125)  # gif counts in hundredths


def test_a_png_holds_all_frames_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "now.png"
    write_strip(path, ramp(), 8.0)
    assert read_document(path) == MARK
    with Image.open(path) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (80, 3 * 128 + 2 * 2, 3)
    assert [pixels[40, 130 * number + 120].tolist() for number in range(3)] == [[40] * 3, [100] * 3, [160] * 3]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 300), (1, 300, 1), (14, 72, 128)])
@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_any_number_of_frames_of_any_size(tmp_path: Path, shape: tuple[int, int, int], suffix: str) -> None:
    path = tmp_path / f"now.{suffix}"
    write_strip(path, np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8), 1000.0)
    with Image.open(path) as image:
        image.load()


def test_an_old_preview_is_replaced_and_any_other_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "now.gif"
    check_strip(path)
    write_strip(path, ramp(), 8.0)
    check_strip(path)
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(UsageError, match="already exists and is no preview"):
        check_strip(path)
    check_strip(path, force=True)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="already exists and is no preview"):
        check_strip(path)


@pytest.mark.parametrize("name", ["now.mp4", "now", "now.apng", ".gif"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"expected a file name that ends in \.gif, \.webp, \.png"):
        check_strip(tmp_path / name)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "now.gif").mkdir()
    with pytest.raises(UsageError, match="expected a file name"):
        check_strip(tmp_path / "now.gif")


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StillmotionError, match="cannot be written"):
        write_strip(tmp_path / "file" / "now.gif", ramp(), 8.0)

"""What files are, from their headers: every format that is written, and no crash on what is damaged."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from stillmotion.errors import MediaError, StillmotionError
from stillmotion.media.formats import Encoding
from stillmotion.media.images import upright_size
from stillmotion.media.probe import (
    StreamFacts,
    encoders,
    image_decoders,
    library_versions,
    media_kind,
    probe,
    probe_image,
)
from stillmotion.media.video import write_video

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 34, 50, 3), np.uint8)
# Suffix, the container's name or part of it, the stream's codec, its pixel format.
WRITTEN = {
    "mp4": ("mp4", "h264", "yuv420p"),
    "webm": ("webm", "vp9", "yuv420p"),
    "mov": ("mov", "prores", "yuv422p10le"),
    "mkv": ("matroska", "ffv1", "bgr0"),
    "gif": ("gif", "gif", "P"),
    "webp": ("webp", "webp", "RGB"),
    "apng": ("apng", "apng", "RGB"),
}


def written(folder: Path, suffix: str, frames: np.ndarray = FRAMES) -> Path:
    path = folder / f"video.{suffix}"
    write_video(path, frames, 10.0, Encoding(), document="{}")
    return path


@pytest.mark.parametrize("suffix", WRITTEN)
def test_what_was_written_is_found(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix)
    container, codec, pixel_format = WRITTEN[suffix]
    found = probe(path)
    (stream,) = found.streams
    assert media_kind(path) == "video"
    assert container in found.container and found.bytes == path.stat().st_size
    assert (stream.kind, stream.codec, stream.pixel_format) == ("video", codec, pixel_format)
    assert (stream.width, stream.height, stream.frames) == (50, 34, 5)
    assert stream.fps == pytest.approx(10) and found.duration_s == pytest.approx(0.5, abs=0.11)
    if suffix in ("mp4", "webm", "mov"):
        assert stream.colour["matrix"] == "bt709" and stream.colour["range"] == "limited"


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    write_video(tmp_path / "frames", FRAMES, 10.0, Encoding(format="png"))
    found = probe(tmp_path / "frames")
    assert found.container == "folder of png" and found.duration_s is None
    assert found.streams == (StreamFacts("video", "png", None, 50, 34, frames=5, pixel_format="RGB"),)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="a folder without pngs"):
        probe(tmp_path / "empty")


def test_frames_are_counted_where_the_header_only_guesses(tmp_path: Path) -> None:
    for suffix in ("mkv", "webm"):
        assert probe(written(tmp_path, suffix, FRAMES[:3])).streams[0].frames == 3
        (tmp_path / f"video.{suffix}").unlink()


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_a_still_image(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    Image.new("RGB", (30, 20)).save(path)
    found = probe_image(path)
    assert media_kind(path) == "image"
    assert (found.width, found.height, found.orientation, found.profile) == (30, 20, 1, None)
    assert found.format == {"jpg": "JPEG"}.get(kind, kind.upper()) and found.bytes == path.stat().st_size
    assert found.mode == ("P" if kind == "gif" else "RGB")


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
def test_orientation_and_profile_are_read_without_a_pixel(tmp_path: Path, kind: str, oriented) -> None:
    path = tmp_path / f"a.{kind}"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (30, 20)).save(path, exif=oriented(6), icc_profile=profile)
    found = probe_image(path)
    assert found.orientation == 6 and found.profile is not None and "sRGB" in found.profile
    assert (found.width, found.height) == (30, 20)  # as stored
    assert upright_size(path) == (20, 30)


def test_damaged_notes_about_a_picture_do_not_hide_it(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0", icc_profile=b"no profile")
    found = probe_image(tmp_path / "a.jpg")
    assert (found.width, found.orientation, found.profile) == (30, 1, "damaged")


@pytest.mark.parametrize("look", [media_kind, probe, probe_image])
def test_what_is_not_there_is_one_sentence(tmp_path: Path, look) -> None:
    with pytest.raises(MediaError, match=r"(No such file or directory|does not exist); expected an? .*\.$"):
        look(tmp_path / "nothing.mp4")


@pytest.mark.parametrize("data", [b"", b"x", bytes(100), b"#EXTM3U\nfile.ts\n", b"<svg/>", b"RIFF\4\0\0\0WEBP"])
def test_what_is_neither_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    for look in (probe, probe_image):
        with pytest.raises(StillmotionError):
            look(path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    data = b"RIFF" + (36 + 800).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0"
    (tmp_path / "a.wav").write_bytes(data + b"data" + (800).to_bytes(4, "little") + bytes(800))
    with pytest.raises(MediaError):
        probe(tmp_path / "a.wav")


def _looked_at(path: Path) -> int:
    """How many of the three ways to look refused; each answers, or with one sentence."""
    refused = 0
    for look in (media_kind, probe, probe_image):
        try:
            look(path)
        except StillmotionError as error:
            refused += 1
            assert str(error).endswith(".") and "\n" not in str(error), error
    return refused


@pytest.mark.parametrize("suffix", [*WRITTEN, "jpg", "tiff"])
def test_every_cut_and_many_mutants_end_in_facts_or_a_sentence(tmp_path: Path, suffix: str) -> None:
    if suffix in WRITTEN:
        data = written(tmp_path, suffix, FRAMES[:2]).read_bytes()
    else:
        Image.fromarray(FRAMES[0]).save(tmp_path / f"a.{suffix}")
        data = (tmp_path / f"a.{suffix}").read_bytes()
    target, rng, refused = tmp_path / "target", random.Random(0), 0
    for cut in sorted(rng.sample(range(len(data)), 20)):
        target.write_bytes(data[:cut])
        refused += _looked_at(target)
    for _ in range(30):
        mutant = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            mutant[rng.randrange(min(len(mutant), 400))] = rng.randrange(256)
        target.write_bytes(mutant)
        refused += _looked_at(target)
    assert refused > 20  # else the mutants did no harm


def test_this_machine_says_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    found = encoders()
    assert set(found) == {"h264", "h265", "av1", "vp9", "prores-hq", "prores-4444", "ffv1"}
    assert [name for name, refusal in found.items() if refusal is not None] == []
    assert set(image_decoders()) == {"webp", "avif"}
    assert all(Fraction(version.split(".")[0]) > 0 for version in library_versions().values())

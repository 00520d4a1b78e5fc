"""Eight modes, eight orientations, with and without a colour profile: the pixels worked out by hand, within a level.

The profiles are built here byte by byte (ICC.1:2022), and what they mean is worked out with numpy from the
definitions of sRGB (IEC 61966-2-1) and CIELAB, so that no colour management stands on both sides.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from stillmotion.errors import UsageError
from stillmotion.media import images

HEIGHT, WIDTH = 6, 4
FILES = {"RGB": "png", "RGBA": "png", "L": "png", "LA": "png", "P": "png", "1": "png", "I;16": "png", "CMYK": "tiff"}
# Columns are the primaries in XYZ, adapted to D50 after Bradford, as profiles store them.
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
WIDE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])  # Adobe RGB
D50 = np.array([0.9642, 1.0, 0.8249])
WIDE_GAMMA, GREY_GAMMA = 563 / 256, 461 / 256  # 8 bits after the point, as a profile has them
# L*, a* and b* as affine functions of the inks C, M, Y, K and 1: what a table of two points an axis gives exactly.
# All inks together are black, so that no black point is left to compensate.
INKS = np.array([[-25.0, -30, -10, -30, 95], [-25, 40, -5, -10, 0], [-30, 0, 50, -20, 0]])


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02400000, kind, space, connection)
    header += b"\0" * 12 + b"acsp" + b"\0" * 28 + _fixed(*D50)
    return header.ljust(128, b"\0") + table + body


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + b"\0" * 4 + _fixed(*values)


def _curve(gamma: float) -> bytes:
    return b"curv" + struct.pack(">III", 0, 1, 0)[:8] + struct.pack(">H", round(gamma * 256))


def _ink_table() -> bytes:
    corners = np.array([[c, m, y, k, 1] for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)])
    lab = corners @ INKS.T
    stored = np.concatenate([lab[:, :1] * 652.8, (lab[:, 1:] + 128) * 256], axis=1)  # lut16Type: L* 100 is 0xFF00
    head = b"mft2" + b"\0" * 4 + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">HH", 2, 2)
    line = struct.pack(">HH", 0, 65535)
    return head + line * 4 + stored.round().astype(">u2").tobytes() + line * 3


def _profile_for(mode: str) -> bytes:
    if mode == "CMYK":
        return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz(D50), b"A2B0": _ink_table()})
    if mode in ("L", "LA", "1", "I;16"):
        return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz(D50), b"kTRC": _curve(GREY_GAMMA)})
    tags = {b"wtpt": _xyz(D50)}
    for column, name in enumerate((b"r", b"g", b"b")):
        tags |= {name + b"XYZ": _xyz(WIDE[:, column]), name + b"TRC": _curve(WIDE_GAMMA)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def _encoded(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _from_xyz(xyz: np.ndarray) -> np.ndarray:
    return _encoded(xyz @ np.linalg.inv(SRGB).T)


def _from_wide(rgb: np.ndarray) -> np.ndarray:
    return _from_xyz((rgb / 255) ** WIDE_GAMMA @ WIDE.T)


def _from_grey(grey: np.ndarray) -> np.ndarray:
    return np.repeat(_encoded((grey / 255) ** GREY_GAMMA)[..., None], 3, axis=2)


def _from_inks(ink: np.ndarray) -> np.ndarray:
    light, a, b = np.moveaxis(np.concatenate([ink / 255, np.ones_like(ink[..., :1])], axis=2) @ INKS.T, 2, 0)
    middle = (light + 16) / 116
    root = np.stack([middle + a / 500, middle, middle - b / 200], axis=2)
    return _from_xyz(D50 * np.where(root > 6 / 29, root**3, 3 * (6 / 29) ** 2 * (root - 4 / 29)))


def _plain_grey(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def _plain_inks(ink: np.ndarray) -> np.ndarray:
    return 255 * (1 - ink[..., :3] / 255) * (1 - ink[..., 3:] / 255)


def _over(colour: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + np.array(background) * (1 - share)


def _case(mode: str, with_profile: bool, background: tuple[int, int, int]) -> tuple[Image.Image, np.ndarray]:
    """An image of a mode as its file stores it, and the pixels that it must give."""
    stored = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8)
    values, grey = stored.astype(float), stored[..., 0].astype(float)
    of_rgb = _from_wide if with_profile else np.asarray
    of_grey = _from_grey if with_profile else _plain_grey
    if mode == "P":
        table, alphas = stored[0, :, :3], np.array([255, 0, 128, 40])
        indices = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 4
        image = Image.fromarray(indices).convert("L")
        image.putpalette(table.tobytes())
        image.info["transparency"] = bytes(alphas.tolist())
        return image, _over(of_rgb(table[indices].astype(float)), alphas[indices], background)
    if mode == "CMYK":
        image = Image.frombytes("CMYK", (WIDTH, HEIGHT), stored.tobytes())
        return image, (_from_inks if with_profile else _plain_inks)(values)
    deep = np.random.default_rng(2).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    return {
        "RGB": lambda: (Image.fromarray(stored[..., :3].copy()), of_rgb(values[..., :3])),
        "RGBA": lambda: (Image.fromarray(stored), _over(of_rgb(values[..., :3]), values[..., 3], background)),
        "L": lambda: (Image.fromarray(stored[..., 0].copy()), of_grey(grey)),
        "LA": lambda: (Image.fromarray(stored[..., :2].copy(), "LA"), _over(of_grey(grey), values[..., 1], background)),
        "1": lambda: (Image.fromarray(stored[..., 0] > 127), of_grey(255.0 * (grey > 127))),
        "I;16": lambda: (Image.fromarray(deep), of_grey(deep / 257)),
    }[mode]()


@pytest.mark.parametrize("with_profile", [False, True])
@pytest.mark.parametrize("mode", FILES)
def test_every_mode_and_orientation_with_and_without_a_profile(tmp_path, mode, with_profile, oriented, upright):
    background = (255, 255, 255) if mode == "LA" else (200, 30, 90)
    image, expected = _case(mode, with_profile, background)
    assert image.mode == mode
    for orientation, turn in upright.items():
        path = tmp_path / f"{orientation}.{FILES[mode]}"
        options = {"icc_profile": _profile_for(mode)} if with_profile else {}
        image.save(path, exif=oriented(orientation), **options)
        read = images.read_image(path, background=f"rgb{background}")
        assert read.mode == "RGB"
        wanted = turn(expected)
        assert np.asarray(read).shape == wanted.shape
        assert np.abs(np.asarray(read) - wanted).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P"])
def test_a_profile_that_was_used_changes_the_pixels(mode):
    plain, used = _case(mode, False, (0, 0, 0))[1], _case(mode, True, (0, 0, 0))[1]
    assert np.abs(plain - used).max() > 8  # else the test above could not tell


def test_bands_and_turns_of_a_large_image_leave_no_seam(tmp_path, monkeypatch, oriented):
    image, _ = _case("RGBA", True, (0, 0, 0))
    image = image.resize((70, 190), Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.png", icc_profile=_profile_for("RGBA"), exif=oriented(8))
    whole = np.asarray(images.read_image(tmp_path / "a.png", background="teal"))
    for pixels in (1, 70, 1000, 5000):
        monkeypatch.setattr(images, "BAND_PIXELS", pixels)
        assert np.array_equal(np.asarray(images.read_image(tmp_path / "a.png", background="teal")), whole)


@pytest.mark.parametrize("orientation", [1, 6])
def test_what_cannot_be_drafted_is_averaged_to_a_whole_fraction(tmp_path, monkeypatch, orientation, oriented):
    image, _ = _case("RGBA", False, (0, 0, 0))
    image = image.resize((210, 170), Image.Resampling.NEAREST)
    image.save(tmp_path / "a.png", exif=oriented(orientation))
    whole = np.asarray(images.read_image(tmp_path / "a.png")).astype(float)
    wanted = (20, 17) if orientation == 1 else (17, 20)
    assert images.read_image(tmp_path / "a.png", at_least=wanted).size == whole.shape[1::-1]
    monkeypatch.setattr(images, "REDUCED_FROM", 210 * 170 - 1)
    reduced = np.asarray(images.read_image(tmp_path / "a.png", at_least=wanted))
    tall, wide = whole.shape[0] // 5, whole.shape[1] // 5
    mean = whole.reshape(tall, 5, wide, 5, 3).mean(axis=(1, 3))
    assert np.abs(reduced - mean).max() <= 0.5 + 0.03  # how Pillow divides
    assert images.read_image(tmp_path / "a.png", at_least=(300, 300)).size == whole.shape[1::-1]


@pytest.mark.parametrize("colour", ["", "nocolour", "#12345", "#11223344", "rgba(1, 2, 3, 0.5)", "white ", None, 7])
def test_what_is_no_opaque_colour_is_refused(tmp_path, colour):
    Image.new("RGBA", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"expected a name such as white, or #rrggbb\.$"):
        images.read_image(tmp_path / "a.png", background=colour)


def test_colours_have_names_and_numbers():
    assert images.colour_of("White") == (255, 255, 255)
    assert images.colour_of("#0a1bFF") == (10, 27, 255)
    assert images.colour_of("rgb(1, 2, 3)") == (1, 2, 3)

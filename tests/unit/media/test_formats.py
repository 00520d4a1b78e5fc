"""The table of formats: which file a request means, what it can hold, and the refusals."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from stillmotion.errors import UsageError
from stillmotion.media.formats import (
    CODECS,
    FORMATS,
    Encoding,
    check_encodable,
    check_rate,
    format_of,
    frame_order,
    quality_of,
    rate_factor,
    suffix_of,
)


@pytest.mark.parametrize(
    ("name", "encoding", "expected"),
    [
        ("a.mp4", Encoding(), "mp4"),
        ("a.MKV", Encoding(), "mkv"),
        ("a", Encoding(), "mp4"),
        (None, Encoding(), "mp4"),
        ("a", Encoding(codec="vp9"), "webm"),
        ("a", Encoding(codec="prores-4444"), "mov"),
        ("a", Encoding(codec="ffv1"), "mkv"),
        ("a", Encoding(codec="av1"), "mp4"),
        ("a", Encoding(format="png"), "png"),
        ("a.version2", Encoding(format="gif"), "gif"),
        ("a.webm", Encoding(format="webm", codec="av1"), "webm"),
    ],
)
def test_the_suffix_the_codec_or_the_setting_chooses(name, encoding, expected):
    assert format_of(None if name is None else Path(name), encoding).name == expected


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("a.webm", Encoding(codec="h264")),
        ("a.gif", Encoding(codec="h264")),
        ("a.avi", Encoding()),
        ("a.png", Encoding()),
        ("a.webm", Encoding(format="mp4")),
        ("a.mp4", Encoding(format="png")),
        (None, Encoding(format="mov", codec="vp9")),
    ],
)
def test_what_does_not_fit_together_is_one_sentence(name, encoding):
    with pytest.raises(UsageError, match=r"expected .*\.$"):
        format_of(None if name is None else Path(name), encoding)


def test_every_format_has_its_suffix():
    for name, each in FORMATS.items():
        assert suffix_of(Encoding(format=name)) == each.suffix == ("" if name == "png" else f".{name}")


def test_quality_maps_to_rate_factors_and_back():
    h264 = CODECS["h264"]
    assert [rate_factor(h264, quality) for quality in (1, 90, 95, 100)] == [51, 17, 7, 1]
    for codec in CODECS.values():
        factors = [rate_factor(codec, quality) for quality in range(1, 101)] if codec.rate_factors else [0]
        assert factors == sorted(factors, reverse=True)
    assert all(rate_factor(h264, quality_of(h264, factor)) == factor for factor in range(17, 52))


def test_ping_pong_shows_no_frame_twice_at_its_ends():
    mp4, gif = FORMATS["mp4"], FORMATS["gif"]
    assert frame_order(4, gif, Encoding(ping_pong=True)) == [0, 1, 2, 3, 2, 1]
    assert frame_order(2, gif, Encoding(ping_pong=True, loop=3)) == [0, 1]
    assert frame_order(1, mp4, Encoding(ping_pong=True)) == [0]
    assert frame_order(3, mp4, Encoding(ping_pong=True, loop=2)) == [0, 1, 2, 1] * 2
    assert frame_order(2, mp4, Encoding(loop=0)) == [0, 1]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.mp4", (16386, 2, 1, 7)),
        ("a.mp4", (8192, 8192, 1, 7)),
        ("a.webp", (16384, 1, 1, 7)),
        ("a.mp4", (0, 8, 1, 7)),
        ("a.mp4", (8, 8, 0, 7)),
        ("a.gif", (8, 8, 5, 51)),
        ("a.gif", (8, 8, 5, 0.001)),
        ("a.webp", (8, 8, 5, 91)),
        ("a.apng", (8, 8, 5000, 7)),
        ("a.mp4", (8, 8, 200_000, 7)),
        ("a.mp4", (8, 8, 5, True)),
        ("a.mp4", (8, 8, 5, "7")),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(name, arguments):
    with pytest.raises(UsageError, match=r"expected .*\.$"):
        check_encodable(Path(name), *arguments, Encoding())


def test_too_small_for_a_codec_is_refused_and_settings_are_validated():
    with pytest.raises(UsageError, match="16 to 8192"):
        check_encodable(None, 14, 14, 1, 7, Encoding(codec="h265"))
    assert check_encodable(None, 15, 15, 1, 7, Encoding(codec="h265"))
    for bad in (Encoding(quality=0), Encoding(quality=101), Encoding(loop=-1), Encoding(format="avi")):  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            check_encodable(None, 16, 16, 1, 7, bad)


def test_a_note_for_sizes_that_4_2_0_cannot_hold():
    assert check_encodable(None, 127, 79, 5, 7, Encoding()) == (
        "127x79 repeats its last column and row: H.264 in 4:2:0 needs even sizes.",
    )
    assert check_encodable(None, 128, 79, 5, 7, Encoding())[0].startswith("128x79 repeats its last row:")
    for encoding in (Encoding(codec="av1"), Encoding(codec="vp9"), Encoding(format="gif"), Encoding(codec="ffv1")):
        assert check_encodable(None, 127, 79, 5, 7, encoding) == ()


def test_rates_are_fractions():
    assert check_rate(30000 / 1001) == Fraction(30000, 1001)
    assert check_rate(7) == 7

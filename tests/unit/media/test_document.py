"""The document survives every format exactly; damage and excess are one sentence."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from stillmotion.errors import MediaError, UsageError
from stillmotion.media import document as module
from stillmotion.media.document import MAX_DOCUMENT_BYTES, SIDECAR, as_xmp, read_document
from stillmotion.media.formats import FORMATS, Encoding
from stillmotion.media.video import write_video

FRAMES = np.zeros((2, 16, 16, 3), np.uint8)
AWKWARD = '{"seed": 9223372036854775807, "é": "日本 \U0001f600 \\n\\"<&amp;>=;#]]>-lang"}\r\n\t '


def _large() -> str:
    words = np.random.default_rng(0).integers(0, 2**63 - 1, 140_000)
    return json.dumps({"draws": words.tolist(), "who": "日本" * 1000}, ensure_ascii=False)


@pytest.mark.parametrize("name", FORMATS)
def test_it_comes_back_exactly_small_and_large(tmp_path, name):
    large = _large()
    assert 2_500_000 < len(large.encode()) < MAX_DOCUMENT_BYTES
    for number, text in enumerate((AWKWARD, "x" * 1024, large)):
        path = tmp_path / f"{number}{FORMATS[name].suffix}"
        write_video(path, FRAMES, 7, Encoding(format=name), document=text)
        assert read_document(path) == text


@pytest.mark.parametrize("name", FORMATS)
def test_without_one_there_is_none(tmp_path, name):
    path = tmp_path / f"a{FORMATS[name].suffix}"
    write_video(path, FRAMES, 7, Encoding(format=name))
    assert read_document(path) is None


@pytest.mark.parametrize("name", [each for each in FORMATS if each != "png"])
def test_a_file_that_was_cut_off_gives_the_document_or_a_sentence(tmp_path, name):
    whole, cut = tmp_path / f"a{FORMATS[name].suffix}", tmp_path / "cut"
    write_video(whole, FRAMES, 7, Encoding(format=name), document=AWKWARD)
    data = whole.read_bytes()
    refused = 0
    for length in range(20, len(data), max(1, len(data) // 97)):
        cut.write_bytes(data[:length])
        try:
            assert read_document(cut) in (AWKWARD, None)
        except MediaError as error:
            refused += 1
            assert str(error).endswith(".")
    assert refused


@pytest.mark.parametrize("bad", ["a\0b", "\x1b[31m", "\ud800", "\ufffe", "x" * (MAX_DOCUMENT_BYTES + 1), b"bytes"])
def test_what_not_every_format_holds_is_refused(tmp_path, bad):
    with pytest.raises(UsageError, match=r"document .*expected .*\.$"):
        write_video(tmp_path / "a.mp4", FRAMES, 7, document=bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_too_large_a_document_is_refused(tmp_path, name, monkeypatch):
    path = tmp_path / f"a{FORMATS[name].suffix}"
    write_video(path, FRAMES, 7, Encoding(format=name), document="y" * 5000)
    monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", 4000)
    with pytest.raises(MediaError):
        read_document(path)


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    whole = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b"")]
    made = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in whole)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def test_compressed_png_text_is_read_and_does_not_grow_without_end(tmp_path):
    path = tmp_path / "a.png"
    head = b"stillmotion\0\1\0\0\0"
    path.write_bytes(_png((b"iTXt", head + zlib.compress("é".encode()))))
    assert read_document(path) == "é"
    path.write_bytes(_png((b"iTXt", head + zlib.compress(bytes(100_000_000)))))
    with pytest.raises(MediaError, match="more than"):
        read_document(path)
    path.write_bytes(_png((b"iTXt", head + b"no zlib")))
    with pytest.raises(MediaError):
        read_document(path)


def _webp(packet: bytes) -> bytes:
    chunk = b"XMP " + struct.pack("<I", len(packet)) + packet + bytes(len(packet) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def test_xmp_that_others_rewrote_is_read_and_entities_are_refused(tmp_path):
    path = tmp_path / "a.webp"
    packet = as_xmp("a<b & 'c'")
    path.write_bytes(_webp(b'<?xpacket begin="" id="W5M0"?>\n' + packet + b"\n" * 500 + b'<?xpacket end="w"?>'))
    assert read_document(path) == "a<b & 'c'"
    start, end = packet.index(b"><stillmotion:recipe>"), packet.index(b"</rdf:Description>")
    path.write_bytes(_webp(packet[:start] + b' stillmotion:recipe="short"/>' + packet[end + 18 :]))
    assert read_document(path) == "short"
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + packet
    for bad in (bomb, packet[:50], b"\xff\xfe"):
        path.write_bytes(_webp(bad))
        with pytest.raises(MediaError):
            read_document(path)


def test_what_is_no_video_holds_none_or_is_refused(tmp_path):
    for name, data in (("text", b"hello " * 100), ("empty", b""), ("photo.jpg", b"\xff\xd8\xff\xe0" + bytes(50))):
        (tmp_path / name).write_bytes(data)
        assert read_document(tmp_path / name) is None
    with pytest.raises(MediaError, match="does not exist"):
        read_document(tmp_path / "missing")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert read_document(folder) is None
    (folder / SIDECAR).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(MediaError, match="UTF-8"):
        read_document(folder)
    assert read_document(Path(__file__).parents[2] / "data" / "media" / "codecs" / "animated.gif") is None

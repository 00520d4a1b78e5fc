"""The document inside a video: one text that says how it was made, put into every format and read back exactly."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import MediaError, UsageError
from .blocks import Block, Kind, Source, boxes, elements, gif_blocks, kind_of, png_chunks, sub_blocks, webp_chunks

DOCUMENT_KEY = "stillmotion"  # of the metadata in mp4, mov, webm, mkv and png
SIDECAR = "recipe.json"  # beside the pictures of a folder
MAX_DOCUMENT_BYTES = 4 * 1024**2

GIF_PREFIX = DOCUMENT_KEY.encode() + b":"  # gif comments have no names
XMP_NAMESPACE = "urn:stillmotion:xmp:1.0:"
RDF_NAMESPACE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
# What XML 1.0, and so XMP, cannot hold (section 2.2); NUL also ends the text in Matroska and png.
UNSTORABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def check_document(document: str) -> None:
    """Raise UsageError for a text that not every format can hold: too long, or with control characters."""
    if not isinstance(document, str):
        raise UsageError(f"the document is a {type(document).__name__}; expected a string.")
    bad = UNSTORABLE.search(document)
    if bad:
        raise UsageError(f"the document holds the character U+{ord(bad[0]):04X}; expected text without control codes.")
    if (size := len(document.encode())) > MAX_DOCUMENT_BYTES:
        raise UsageError(f"the document has {size} bytes; expected at most {MAX_DOCUMENT_BYTES}.")


def read_document(path: Path) -> str | None:
    """The document inside a video, an animation or a folder of pictures; None where there is none.

    No frame is decoded and no library parses the file. Raises MediaError for a file that is missing or damaged, and
    for a document of more than MAX_DOCUMENT_BYTES.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _read_sidecar(path)
        if not path.is_file():
            kind = "is not a file" if path.exists() else "does not exist"
            raise MediaError(f"{path} {kind}; expected a video file, or a folder of pictures.")
        with path.open("rb") as file:
            source = Source(file, path)
            kind = kind_of(source)
            data = READERS[kind](source) if kind else None
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror or error}; expected a video file.") from None
    return None if data is None else _text(data, path)


def as_xmp(document: str) -> bytes:
    """The document as a property of an XMP packet. Source: ISO 16684-1."""
    escaped = document.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF_NAMESPACE}">'
        f'<rdf:Description rdf:about="" xmlns:{DOCUMENT_KEY}="{XMP_NAMESPACE}">'
        f"<{DOCUMENT_KEY}:recipe>{escaped}</{DOCUMENT_KEY}:recipe>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def _text(data: bytes, path: Path) -> str:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise MediaError(f"the document in {path} has more than {MAX_DOCUMENT_BYTES} bytes; expected a smaller one.")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MediaError(f"the document in {path} is no UTF-8 text; expected a file that was not damaged.") from None


def _read_sidecar(folder: Path) -> str | None:
    path = folder / SIDECAR
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return _text(file.read(MAX_DOCUMENT_BYTES + 1), folder)


def _content(source: Source, block: Block, overhead: int = 0) -> bytes:
    # One byte beyond the cap is enough for _text to refuse it.
    return source.read(block.start, min(block.end - block.start, MAX_DOCUMENT_BYTES + overhead + 1))


def _from_png(source: Source) -> bytes | None:
    key = DOCUMENT_KEY.encode() + b"\0"
    for chunk in png_chunks(source):
        is_ours = chunk.kind == b"iTXt" and chunk.end - chunk.start > len(key) + 4
        if is_ours and source.read(chunk.start, len(key)) == key:
            return _international_text(source, chunk, len(key))
    return None


def _international_text(source: Source, chunk: Block, key_length: int) -> bytes:
    # keyword 0 compressed? method language 0 translated 0 text
    data = _content(source, chunk, 256)
    is_whole = chunk.end - chunk.start == len(data)
    if is_whole and zlib.crc32(b"iTXt" + data) != source.number(chunk.end, 4):
        raise source.damaged()
    fields = data[key_length + 2 :].split(b"\0", 2)
    if len(fields) < 3:
        raise source.damaged()
    if not data[key_length]:
        return fields[2]
    try:
        return zlib.decompressobj().decompress(fields[2], MAX_DOCUMENT_BYTES + 1)
    except zlib.error:
        raise source.damaged() from None


def _from_gif(source: Source) -> bytes | None:
    for block in gif_blocks(source):
        is_comment = block.kind == b"\x21\xfe" and block.end - block.start > len(GIF_PREFIX)
        if is_comment and source.read(block.start + 1, len(GIF_PREFIX)) == GIF_PREFIX:
            return sub_blocks(source, block, MAX_DOCUMENT_BYTES + len(GIF_PREFIX) + 255)[len(GIF_PREFIX) :]
    return None


def _from_webp(source: Source) -> bytes | None:
    for chunk in webp_chunks(source):
        if chunk.kind == b"XMP ":
            # Escapes make five bytes of one at the most.
            return _from_xmp(source, source.read(chunk.start, min(chunk.end - chunk.start, 5 * MAX_DOCUMENT_BYTES)))
    return None


def _from_xmp(source: Source, packet: bytes) -> bytes | None:
    if b"<!" in packet:  # a document type may define entities that grow without end; XMP has none
        raise source.damaged()
    try:
        root = ElementTree.fromstring(packet.strip(b"\0 \r\n\t"))
    except (ElementTree.ParseError, ValueError):
        raise source.damaged() from None
    name = f"{{{XMP_NAMESPACE}}}recipe"
    for each in root.iter(f"{{{RDF_NAMESPACE}}}Description"):
        # Other tools may rewrite a property as an attribute; both mean the same.
        found = each.get(name) or each.findtext(name)
        if found is not None:
            return found.encode()
    return None


def _from_mp4(source: Source) -> bytes | None:
    movies = (box for box in boxes(source, 0, source.size) if box.kind == b"moov")
    found = (_from_meta(source, meta) for movie in movies for meta in _meta_boxes(source, movie))
    return next((each for each in found if each is not None), None)


def _meta_boxes(source: Source, moov: Block) -> Iterator[Block]:
    for box in boxes(source, moov.start, moov.end):
        if box.kind == b"meta":
            yield box
        elif box.kind == b"udta":
            yield from (inner for inner in boxes(source, box.start, box.end) if inner.kind == b"meta")


def _from_meta(source: Source, meta: Block) -> bytes | None:
    # In mp4 the meta box starts with a version, in mov it does not; its first child is the handler in both.
    has_version = meta.end - meta.start >= 8 and source.read(meta.start + 4, 4) != b"hdlr"
    children = {box.kind: box for box in boxes(source, meta.start + 4 * has_version, meta.end)}
    keys, items = children.get(b"keys"), children.get(b"ilst")
    number = None if keys is None else _number_of_key(source, keys)
    if items is None or number is None:
        return None
    wanted = (item for item in boxes(source, items.start, items.end) if item.kind == number.to_bytes(4, "big"))
    values = (value for item in wanted for value in boxes(source, item.start, item.end))
    for value in values:
        if value.kind == b"data" and value.end - value.start >= 8:
            return _content(source, Block(value.kind, value.start + 8, value.end))
    return None


def _number_of_key(source: Source, keys: Block) -> int | None:
    names = boxes(source, keys.start + 8, keys.end)
    wanted = DOCUMENT_KEY.encode()
    for number, key in enumerate(names, start=1):
        if key.end - key.start == len(wanted) and source.read(key.start, len(wanted)) == wanted:
            return number
    return None


SEGMENT, TAGS, TAG, SIMPLE_TAG = b"\x18\x53\x80\x67", b"\x12\x54\xc3\x67", b"\x73\x73", b"\x67\xc8"
TAG_NAME, TAG_STRING = b"\x45\xa3", b"\x44\x87"


def _from_matroska(source: Source) -> bytes | None:
    found = [Block(b"", 0, source.size)]
    for kind in (SEGMENT, TAGS, TAG, SIMPLE_TAG):
        found = [child for each in found for child in elements(source, each.start, each.end) if child.kind == kind]
    for tag in found:
        fields = {each.kind: each for each in elements(source, tag.start, tag.end)}
        name, value = fields.get(TAG_NAME), fields.get(TAG_STRING)
        if name and value and _content(source, name)[:64].rstrip(b"\0").lower() == DOCUMENT_KEY.encode():
            return _content(source, value)
    return None


READERS: dict[Kind, Callable[[Source], bytes | None]] = {
    "png": _from_png,
    "gif": _from_gif,
    "webp": _from_webp,
    "mp4": _from_mp4,
    "matroska": _from_matroska,
}

"""An image is fetched from an address within limits of time, size and redirects; all else gives a sentence."""

from __future__ import annotations

import http.server
import io
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from stillmotion.errors import MediaError
from stillmotion.media import download, images


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()


PNG = _png()


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        kind, _, rest = self.path[1:].partition("/")
        if kind == "redirect":
            left = int(rest)
            self._answer(302, b"", {"Location": f"/redirect/{left - 1}" if left > 1 else "/image"})
        elif kind == "flood":
            self._answer(302, b"", {"Location": "/image"})
            self._endless_body()
        elif kind == "file":
            self._answer(302, b"", {"Location": "file:///etc/hostname"})
        elif kind == "ftp":
            self._answer(302, b"", {"Location": "ftp://127.0.0.1:9/a.png"})
        elif kind == "large":
            self._answer(200, b"", {"Content-Length": str(images.MAX_FILE_BYTES + 1)})
        elif kind == "short":
            self._answer(200, PNG[:300], {"Content-Length": "5000"})
        elif kind == "slow":
            self.server.pause.wait(3)
        elif kind == "endless":
            self._endless()
        else:
            self._answer(200 if kind == "image" else 404, PNG, {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _endless(self) -> None:
        self._answer(200, b"", {})
        self._endless_body()

    def _endless_body(self) -> None:
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            self.server.stopped.set()


@pytest.fixture
def server(monkeypatch) -> Iterator[http.server.ThreadingHTTPServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.pause, server.stopped = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.pause.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["image", "redirect/3", "flood"])
def test_an_image_is_loaded_from_an_address(server, path):
    loaded = download.load_image(f"http://127.0.0.1:{server.server_port}/{path}")
    assert np.array_equal(np.asarray(loaded), np.asarray(Image.open(io.BytesIO(PNG))))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "404"),
        ("redirect/4", "redirect"),
        ("file", "file"),
        ("ftp", "scheme ftp"),
        ("large", "at most 256 MiB"),
        ("short", "of 5000 bytes"),
        ("slow", "timed out"),
    ],
)
def test_a_download_that_fails_gives_a_sentence(server, monkeypatch, path, reason):
    monkeypatch.setattr(download, "DOWNLOAD_WAIT_S", 0.3)
    with pytest.raises(MediaError, match=reason) as caught:
        download.load_image(f"http://127.0.0.1:{server.server_port}/{path}")
    assert "expected" in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_stream_without_end_is_cut_at_the_limit_and_at_the_deadline(server, monkeypatch):
    address = f"http://127.0.0.1:{server.server_port}/endless"
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 4 * 1024**2)
    with pytest.raises(MediaError, match="at most 4 MiB"):
        download.load_image(address)
    assert server.stopped.wait(5)
    monkeypatch.setattr(download, "DOWNLOAD_TOTAL_S", 0.0)
    with pytest.raises(MediaError, match="not complete"):
        download.load_image(address)


@pytest.mark.parametrize(
    "address", ["ftp://host/a.png", "file:///etc/hostname", "http://", "http://[::1", "http://a b/"]
)
def test_other_addresses_are_refused(address):
    with pytest.raises(MediaError) as caught:
        download.load_image(address)
    assert "expected" in str(caught.value)
    assert str(caught.value).endswith(".")

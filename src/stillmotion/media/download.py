"""Pictures from addresses, within limits of time, size and redirects."""

from __future__ import annotations

import http.client
import io
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from PIL import Image

from ..errors import MediaError
from .images import check_bytes, read_image, read_image_file, upright_rgb

DOWNLOAD_WAIT_S = 10.0  # for any one answer of a server
DOWNLOAD_TOTAL_S = 120.0  # for the bytes of the image, so that a server which drips them cannot hold a caller for ever
MAX_REDIRECTS = 3


def load_image(source: str | os.PathLike[str] | Image.Image) -> Image.Image:
    """An image as `read_image` gives it, from a path, an open image, or an http or https address.

    For callers who may read any path and reach any address of this machine; a server must not pass on what its
    clients send. Raises MediaError, for a download also where it takes more than DOWNLOAD_WAIT_S for an answer,
    DOWNLOAD_TOTAL_S in all, MAX_FILE_BYTES or MAX_REDIRECTS.
    """
    if isinstance(source, Image.Image):
        return upright_rgb(source)
    address = os.fspath(source)
    scheme, separator, _ = address.partition("://")
    if not separator:
        return read_image(Path(address))
    if scheme.lower() not in ("http", "https"):
        raise MediaError(f"{address} has the scheme {scheme}; expected a path, or an http or https address.")
    return read_image_file(io.BytesIO(_download(address)), address)


class _Redirects(urllib.request.HTTPRedirectHandler):
    # The parent refuses all schemes but http, https and ftp, and counts.
    max_redirections = MAX_REDIRECTS
    max_repeats = MAX_REDIRECTS

    # Unread, as nothing bounds the body of a redirection. Handed on as they come.
    def http_error_302(self, req, fp, code, msg, headers):  # pyright: ignore[reportIncompatibleMethodOverride]
        fp.close()
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    # Handed on as they come.
    def redirect_request(self, *arguments):  # pyright: ignore[reportIncompatibleMethodOverride]
        request = super().redirect_request(*arguments)
        if request is not None and request.type not in ("http", "https"):
            raise urllib.error.URLError(f"it redirects to the scheme {request.type}")
        return request


def _opener() -> urllib.request.OpenerDirector:
    # Not build_opener, which also opens file: and ftp: addresses.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _download(address: str) -> bytes:
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "stillmotion", "Accept": "image/*"})
        with _opener().open(request, timeout=DOWNLOAD_WAIT_S) as response:
            return _read_body(response, address)
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"the server answered {error.code} {error.msg.splitlines()[0] if error.msg else ''}".rstrip()
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error.reason if isinstance(error, urllib.error.URLError) else error) or type(error).__name__
    raise MediaError(f"{address} cannot be fetched: {reason.rstrip('.')}; expected an image.")


def _read_body(response: http.client.HTTPResponse, address: str) -> bytes:
    declared = response.headers.get("Content-Length", "")
    if declared.isdecimal():
        check_bytes(int(declared), address)
    body, deadline = bytearray(), time.monotonic() + DOWNLOAD_TOTAL_S
    while piece := response.read1(1 << 16):
        body += piece
        check_bytes(len(body), address)
        if time.monotonic() > deadline:
            raise TimeoutError(f"the image was not complete after {DOWNLOAD_TOTAL_S:.0f} s")
    if declared.isdecimal() and len(body) != int(declared):
        raise ConnectionError(f"the connection ended after {len(body)} of {declared} bytes")
    return bytes(body)

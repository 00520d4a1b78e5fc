"""A real browser plays what we write: its size, its duration, and its colours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from stillmotion.media.formats import Encoding
from stillmotion.media.video import write_video

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path"),
]

VIDEOS = {"h264": "h264.mp4", "mp4 av1": "av1.mp4", "vp9": "vp9.webm", "webm av1": "av1.webm"}
ANIMATIONS = {"gif": "a.gif", "webp": "a.webp", "apng": "a.apng"}
COLOUR = (200, 100, 50)
WIDTH, HEIGHT, FRAMES, FPS = 96, 64, 9, 7

PAGE = """<!doctype html><pre id="found">waiting</pre><script>
const names = NAMES, found = {};
const left = new Set(names);
function note(name, values) {
  found[name] = values; left.delete(name);
  if (!left.size) document.getElementById("found").textContent = "RESULT" + JSON.stringify(found) + "END";
}
function colour(element, width, height) {
  const canvas = document.createElement("canvas"); canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d"); context.drawImage(element, 0, 0);
  try { return Array.from(context.getImageData(width / 4, height / 2, 1, 1).data).slice(0, 3); }
  catch (error) { return String(error); }
}
for (const name of names) {
  const is_video = /mp4|webm/.test(name);
  const element = document.createElement(is_video ? "video" : "img");
  element.onerror = () => note(name, {error: element.error ? element.error.message : "not decoded"});
  if (is_video) {
    element.muted = true; element.preload = "auto";
    element.onloadeddata = () => note(name, {
      size: [element.videoWidth, element.videoHeight], duration: element.duration,
      colour: colour(element, element.videoWidth, element.videoHeight)});
  } else {
    element.onload = () => note(name, {
      size: [element.naturalWidth, element.naturalHeight],
      colour: colour(element, element.naturalWidth, element.naturalHeight)});
  }
  element.src = name; document.body.appendChild(element);
}
</script>"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("browser")
    frames = np.full((FRAMES, HEIGHT, WIDTH, 3), COLOUR, np.uint8)
    frames[:, :, WIDTH // 2 :] = (20, 150, 220)
    names = [*VIDEOS.values(), *ANIMATIONS.values()]
    for name in names:
        codec = name.split(".")[0]
        write_video(folder / name, frames, FPS, Encoding(codec=codec if codec != "a" else None))  # type: ignore[arg-type]
    (folder / "page.html").write_text(PAGE.replace("NAMES", json.dumps(names)))
    return _dump(folder)


def _dump(folder: Path) -> dict[str, dict]:
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--disable-component-update", "--no-first-run", "--allow-file-access-from-files"),
        *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"),
        (folder / "page.html").as_uri(),
    ]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    match = re.search("RESULT(.*)END", said.stdout)
    assert match, said.stdout[-500:] + said.stderr[-1000:]
    return json.loads(match[1])


@pytest.mark.parametrize("name", [*VIDEOS.values(), *ANIMATIONS.values()])
def test_it_plays_in_its_size_and_colours(found, name):
    values = found[name]
    assert "error" not in values, values
    assert values["size"] == [WIDTH, HEIGHT]
    assert np.abs(np.subtract(values["colour"], COLOUR)).max() <= 4, values


@pytest.mark.parametrize("name", VIDEOS.values())
def test_it_lasts_as_long_as_it_should(found, name):
    assert found[name]["duration"] == pytest.approx(FRAMES / FPS, abs=0.005)

"""A real browser plays what we write: its size, its duration, and its colours."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

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
MOVING = [(20 + 25 * number, 150, 220 - 20 * number) for number in range(FRAMES)]  # the right half of each frame

# A video is read when the browser says that it has put a frame on the screen, not when it has data: a busy machine
# shows black in between. The page sends what it saw and the browser runs in real time, for as long as it takes.
PAGE = """<!doctype html><body><script>
const names = NAMES, found = {};
const left = new Set(names);
function note(name, values) {
  if (!left.delete(name)) return;
  found[name] = values;
  if (!left.size) fetch("/found", {method: "POST", body: JSON.stringify(found)});
}
function colour(element, width, height, across = 0.25) {
  const canvas = document.createElement("canvas"); canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d"); context.drawImage(element, 0, 0);
  return Array.from(context.getImageData(width * across, height / 2, 1, 1).data).slice(0, 3);
}
for (const name of names) {
  const is_video = /mp4|webm/.test(name);
  const element = document.createElement(is_video ? "video" : "img");
  const fail = why => note(name, {error: String(why)});
  element.onerror = () => fail(element.error ? element.error.message : "not decoded");
  document.body.appendChild(element);
  if (is_video) {
    element.muted = element.loop = true;
    const shown = [];
    element.requestVideoFrameCallback(function see(now, {mediaTime}) {
      const [width, height] = [element.videoWidth, element.videoHeight];
      shown.push([mediaTime, colour(element, width, height, 0.75)]);
      // Two pictures of the film, wherever the browser drops one.
      if (shown.some(([time]) => time > shown[0][0])) note(name, {
        size: [width, height], duration: element.duration, shown, colour: colour(element, width, height)});
      else element.requestVideoFrameCallback(see);
    });
    element.src = name; element.play().catch(fail);
  } else {
    element.src = name;
    element.decode().then(async () => {
      const type = {gif: "image/gif", webp: "image/webp", apng: "image/png"}[name.split(".")[1]];
      const decoder = new ImageDecoder({data: await (await fetch(name)).arrayBuffer(), type});
      await Promise.all([decoder.completed, decoder.tracks.ready]);
      const shown = [];
      for (let index = 0; index < decoder.tracks.selectedTrack.frameCount; index++) {
        const {image} = await decoder.decode({frameIndex: index});
        shown.push([image.duration / 1e6, colour(image, image.displayWidth, image.displayHeight, 0.75)]);
      }
      note(name, {
        size: [element.naturalWidth, element.naturalHeight], shown,
        colour: colour(element, element.naturalWidth, element.naturalHeight)});
    }).catch(fail);
  }
}
</script>"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("browser")
    frames = np.full((FRAMES, HEIGHT, WIDTH, 3), COLOUR, np.uint8)
    frames[:, :, WIDTH // 2 :] = np.reshape(MOVING, (FRAMES, 1, 1, 3))
    names = [*VIDEOS.values(), *ANIMATIONS.values()]
    for name in names:
        codec = name.split(".")[0]
        write_video(folder / name, frames, FPS, Encoding(codec=codec if codec != "a" else None))  # type: ignore[arg-type]
    (folder / "page.html").write_text(PAGE.replace("NAMES", json.dumps(names)))
    return _watch(folder)


def _watch(folder: Path) -> dict[str, dict]:
    """What the page in `folder` sends back, served to a browser on this machine's own address."""
    found: Queue[dict[str, dict]] = Queue()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        command = [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--disable-component-update", "--no-first-run", "--autoplay-policy=no-user-gesture-required"),
            *(f"--user-data-dir={folder / 'profile'}", "--remote-debugging-port=0"),
            f"http://127.0.0.1:{server.server_port}/page.html",
        ]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return found.get(timeout=240)
        except Empty:
            pytest.fail("the browser reported nothing within 240 s")
        finally:
            browser.terminate()
            browser.wait(30)
            server.shutdown()


@pytest.mark.parametrize("name", [*VIDEOS.values(), *ANIMATIONS.values()])
def test_it_plays_in_its_size_and_colours(found, name):
    values = found[name]
    assert "error" not in values, values
    assert values["size"] == [WIDTH, HEIGHT]
    assert np.abs(np.subtract(values["colour"], COLOUR)).max() <= 4, values


@pytest.mark.parametrize("name", VIDEOS.values())
def test_it_lasts_as_long_as_it_should(found, name):
    assert found[name]["duration"] == pytest.approx(FRAMES / FPS, abs=0.005)


@pytest.mark.parametrize("name", ANIMATIONS.values())
def test_every_picture_of_an_animation_is_shown_for_its_time(found, name):
    times, colours = zip(*found[name]["shown"], strict=True)
    assert len(times) == FRAMES
    assert times == pytest.approx([1 / FPS] * FRAMES, abs=0.01)  # gif counts hundredths of a second
    assert sum(times) == pytest.approx(FRAMES / FPS, abs=0.01)
    assert np.abs(np.subtract(colours, MOVING)).max() <= 6, colours


@pytest.mark.parametrize("name", VIDEOS.values())
def test_a_film_goes_on(found, name):
    for time, colour in found[name]["shown"]:
        number = round(time * FPS)
        assert np.abs(np.subtract(colour, MOVING[number])).max() <= 6, (time, colour)
    assert len({round(time * FPS) for time, _ in found[name]["shown"]}) >= 2

"""A page that shows everything, and runs nothing."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import numpy as np
import pytest

from stillmotion.curation.charts import histogram, rank_correlation
from stillmotion.curation.manifest import Manifest
from stillmotion.curation.records import Failure, Video
from stillmotion.curation.report import Reported, write_report
from stillmotion.curation.thresholds import ViewConfig, parse_rule, take_view

from .test_manifest import row_of

EVIL = "<script>alert('1')</script>\"&\n.mp4"


class Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img", "br", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line"):
            assert self.open.pop() == tag


def page_of(tmp_path: Path, clips: int = 40, failures: int = 30, tiers: bool = False) -> str:
    rows = tuple(
        row_of(n, motion=n / 10, sharpness=float(n % 7), said=EVIL)
        | {"source": EVIL, "id": f"{n:04d}", "width": 1920, "height": 360 if n % 2 else 1080}
        for n in range(clips)
    )
    manifest = Manifest(rows, {"scan": "1"})
    rules = tuple(map(parse_rule, ("motion=0.25", "sharpness>5"))) if clips else ()
    view = take_view(rows, manifest.measures, ViewConfig(rules=rules, tiers=tiers))
    (tmp_path / "0011.jpg").write_bytes(b"picture")
    video = Video(EVIL, "f" * 64, 9, "mp4", "h264", "yuv420p", 640, 360, 0, 25.0, 50, 7300.0)
    wrong = [Failure(f"{n}{EVIL}", "scan", "corrupt", EVIL) for n in range(failures)]
    path = tmp_path / "report.html"
    write_report(path, Reported(EVIL, [video], manifest, view, wrong, lambda row: tmp_path / f"{row['id']}.jpg"))
    return path.read_text(encoding="utf-8")


def test_the_page_is_whole_and_runs_nothing(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    reader = Reader()
    reader.feed(page)
    assert reader.open == [] and "script" not in reader.tags and "link" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    sources = [value or "" for name, value in reader.attributes if name in ("src", "href")]
    assert sources and all(value.startswith("data:image/jpeg;base64,") for value in sources)
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_the_page_says_what_stays(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "motion=low:0.25" in page and "sharpness&gt;5" in page
    assert ">75.0%<" in page
    assert page.count("<svg") == 2 and "Around each threshold" in page and "Dropped, by reason" in page
    assert "and 18 more" in page and "the video is damaged" in page
    assert "2.0 h" in page


def test_each_tier_shows_its_own_border(tmp_path: Path) -> None:
    page = page_of(tmp_path, tiers=True)
    parts = {part.partition("</h3>")[0]: part for part in page.split("<h3>motion=low:0.25, border ")[1:]}
    assert set(parts) == {"1.1 at 360p", "1 at 1080p"}
    # Eight clips around each, of its own heights alone: motion 0.1, 0.3, ... and 0, 0.2, ...
    shown = {name: re.findall(r"<b>motion ([\d.]+)", part) for name, part in parts.items()}
    assert shown["1.1 at 360p"] == ["0.3", "0.5", "0.7", "0.9", "1.1", "1.3", "1.5", "1.7"]
    assert shown["1 at 1080p"][:8] == ["0.2", "0.4", "0.6", "0.8", "1", "1.2", "1.4", "1.6"]


def test_a_report_of_nothing_is_a_page_too(tmp_path: Path) -> None:
    page = page_of(tmp_path, clips=0, failures=0)
    assert "Nothing was scored." in page and "None." in page


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [0.0, 1e300], list(range(1000))])
def test_every_value_is_in_a_bar(values: list[float]) -> None:
    drawn = histogram(values[::2], values[1::2], [values[0]])
    heights = {name: 0.0 for name in ("in", "out")}
    for name, height in re.findall(r'class="(in|out)"[^>]*height="([\d.]+)"', drawn):
        heights[name] += float(height)
    assert heights["in"] > 0 and "nan" not in drawn
    if len(values) > 1:
        assert heights["out"] / heights["in"] == pytest.approx(len(values[1::2]) / len(values[::2]), rel=0.01)


def test_correlation_is_spearman_s() -> None:
    draw = np.random.default_rng(0)
    one = draw.integers(0, 5, 50).astype(float)
    other = one + draw.normal(0, 1, 50)
    ranks = [np.array([(np.sum(each < x) + np.sum(each <= x) + 1) / 2 for x in each]) for each in (one, other)]
    expected = np.corrcoef(*ranks)[0, 1]
    assert rank_correlation(one.tolist(), other.tolist()) == pytest.approx(expected)
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 10.0, 100.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None

"""The page is made from stored figures alone."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from suite import plot
from suite.document import write_page
from suite.figures import Experiment, Figure, Measured, at_least, at_most
from suite.results import Results, Stamp

from stillmotion.errors import UsageError

MACHINE = {"device": "A <processor>", "cores": 2, "threads": 2, "python": "3.11", "torch": "2", "diffusers": "0.42.1"}
POINTS = [{"size": 4, "ours": 1.0, "peer": 2.5}, {"size": 8, "ours": 2.0, "peer": 5.0}]
FIGURES = (
    Figure("step", "U-Net step", "s", "diffusers' time / ours", at_least(1.6), at_least(2.2)),
    Figure("peak", "peak memory", "GB", "ours / diffusers'", at_most(0.35)),
    Figure("growth-frames", "as frames grow", "s", "diffusers' time / ours"),
)
FOUND = {
    "step": Measured(11.0, 22.0, 2.0, "results 1.0e-06 std apart"),
    "peak": Measured(8.0, 16.0, 0.5),
    "growth-frames": Measured(2.0, 5.0, 2.5, details={"points": POINTS, "axis": "frames"}),
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Figures of one machine."""
    stored = Results(tmp_path / "results" / "box-2-cores")
    stored.keep(Experiment("all", FIGURES, dict), FOUND, Stamp("s", "abc123"), MACHINE, others=0.0)
    return tmp_path / "results"


def test_the_page_holds_every_stored_figure_with_its_verdict(results: Path, tmp_path: Path) -> None:
    write_page(results, tmp_path / "performance.md")
    page = (tmp_path / "performance.md").read_text()
    assert "| U-Net step | 11 s | 22 s | 2 (diffusers' time / ours) | >= 1.6 | >= 2.2 | must met |" in page
    assert "| peak memory | 8 GB | 16 GB | 0.5 (ours / diffusers') | <= 0.35 |  | missed |" in page
    assert "| as frames grow | 2 s | 5 s | 2.5 (diffusers' time / ours) |  |  |  |" in page
    assert "commit abc123" in page and "## box-2-cores" in page
    assert "- U-Net step: results 1.0e-06 std apart." in page


def test_its_plots_are_there_and_well_formed(results: Path, tmp_path: Path) -> None:
    write_page(results, tmp_path / "performance.md")
    page = (tmp_path / "performance.md").read_text()
    for name in ("performance-box-2-cores.svg", "performance-box-2-cores-growth-frames.svg"):
        assert f"]({name})" in page
        ElementTree.fromstring((tmp_path / name).read_text())


def test_a_disturbed_figure_says_so(results: Path, tmp_path: Path) -> None:
    Results(results / "box-2-cores").keep(
        Experiment("all", FIGURES, dict), FOUND, Stamp("s", None), MACHINE, others=0.8
    )
    write_page(results, tmp_path / "performance.md")
    assert "must met (others used 0.8 cores) |" in (tmp_path / "performance.md").read_text()


def test_without_figures_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no figures"):
        write_page(tmp_path, tmp_path / "performance.md")
    assert not list(tmp_path.iterdir())


def test_bars_are_as_long_as_their_values_and_marked_at_their_must() -> None:
    drawn = ElementTree.fromstring(plot.bars("title", [("one & two", 2.0, 1.0), ("three", 0.5, 1.0)]))
    space = "{http://www.w3.org/2000/svg}"
    wide = [float(each.attrib["width"]) for each in drawn.iter(f"{space}rect") if each.attrib["width"] != "100%"]
    assert wide[0] == pytest.approx(4 * wide[1])
    marks = {each.attrib["x1"] for each in drawn.iter(f"{space}line")}
    assert marks == {f"{plot.LABEL + wide[0] / 2:.1f}"}
    colours = [each.attrib["fill"] for each in drawn.iter(f"{space}rect")][1:]
    assert colours == [plot.OURS, plot.MISSED]


def test_lines_begin_at_nothing_and_end_at_the_largest() -> None:
    drawn = ElementTree.fromstring(plot.lines("title", "frames", [(4, 1.0, 2.0), (8, 2.0, 4.0)]))
    ours, peer = [each.attrib["points"].split() for each in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    heights = [[float(point.split(",")[1]) for point in line] for line in (ours, peer)]
    assert heights[0][1] == pytest.approx(heights[1][0])
    assert ours[0].split(",")[0] == peer[0].split(",")[0] != ours[1].split(",")[0]


@pytest.mark.parametrize("rows", [[], [("zero", 0.0, None)]])
def test_plots_of_nothing_are_drawn(rows: list) -> None:
    ElementTree.fromstring(plot.bars("title", rows))
    ElementTree.fromstring(plot.lines("title", "frames", []))

"""Drawings of a report as SVG, in the colours of the page that holds them."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

BINS = 40
WIDTH, HEIGHT, FLOOR = 360, 120, 18  # units of the drawing; FLOOR is the room for the numbers below


def histogram(kept: Sequence[float], dropped: Sequence[float], borders: Sequence[float]) -> str:
    """How values spread, those of kept clips on top of those of dropped ones, with a line at each border.

    Values outside the middle 99 % are counted in the outermost bars.
    """
    values = np.array([*kept, *dropped], float)
    low, high = np.quantile(values, [0.005, 0.995])
    high = high if high > low else low + 1
    edges = np.linspace(low, high, BINS + 1)
    above, below = (np.histogram(np.clip(np.array(each, float), low, high), edges)[0] for each in (kept, dropped))
    scale = (HEIGHT - FLOOR) / max(1, (above + below).max())
    bars = []
    for index in range(BINS):
        base = HEIGHT - FLOOR
        for count, name in ((below[index], "out"), (above[index], "in")):
            if count:
                base -= count * scale
                bars.append(_bar(index, base, count * scale, name))
    lines = [_line((border - low) / (high - low)) for border in borders if low <= border <= high]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(bars)}{"".join(lines)}'
        f'<text x="0" y="{HEIGHT - 4}">{low:.3g}</text>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">{(low + high) / 2:.3g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{high:.3g}</text></svg>'
    )


def _bar(index: int, top: float, height: float, name: str) -> str:
    width = WIDTH / BINS
    place = f'x="{index * width + 0.5:.2f}" y="{top:.2f}" width="{width - 1:.2f}" height="{height:.2f}"'
    return f'<rect class="{name}" {place}/>'


def _line(place: float) -> str:
    x = place * WIDTH
    return f'<line class="border" x1="{x:.2f}" y1="0" x2="{x:.2f}" y2="{HEIGHT - FLOOR}"/>'


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's correlation, equal values sharing their mean rank; None where one side does not vary."""
    ranks = [_ranks(np.array(each, float)) for each in (one, other)]
    deviations = [each - each.mean() for each in ranks]
    norm = float(np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum()))
    return float((deviations[0] * deviations[1]).sum()) / norm if norm else None


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def matrix(names: Sequence[str], values: Sequence[Sequence[float | None]]) -> str:
    """A table of correlations from -1 to 1, the deeper the colour the stronger."""
    heads = "".join(f"<th><span>{html.escape(name)}</span></th>" for name in names)
    rows = []
    for name, row in zip(names, values, strict=True):
        cells = "".join(_cell(value) for value in row)
        rows.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    return f'<div class="wide"><table class="matrix"><tr><th></th>{heads}</tr>{"".join(rows)}</table></div>'


def _cell(value: float | None) -> str:
    if value is None:
        return "<td>-</td>"
    colour = "var(--in)" if value >= 0 else "var(--border)"
    share = round(abs(value) * 70)
    return f'<td style="background:color-mix(in srgb,{colour} {share}%,transparent)">{value:+.2f}</td>'

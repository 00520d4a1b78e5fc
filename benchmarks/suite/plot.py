"""Small plots as SVG: bars of ratios, and lines of times that grow."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, ROW, MARGIN = 760, 26, 16
LABEL, BARS = 330, 330
OURS, PEER, INK, FAINT, MISSED = "#2f6f9f", "#b8864b", "#222222", "#999999", "#a83232"
STYLE = f'font-family="sans-serif" font-size="12" fill="{INK}"'


def bars(title: str, rows: Sequence[tuple[str, float, float | None]]) -> str:
    """One bar a row: its label, its value, and what it must reach as a mark. Values are not negative."""
    largest = max([max(value, must or 0.0) for _, value, must in rows], default=1.0) or 1.0
    height = 2 * MARGIN + ROW * (len(rows) + 1)
    parts = [_text(MARGIN, MARGIN + 8, title, weight="bold")]
    for index, (label, value, must) in enumerate(rows):
        y = MARGIN + ROW * (index + 1)
        length = BARS * value / largest
        colour = MISSED if must is not None and value < must else OURS
        parts.append(_text(MARGIN, y + 13, label))
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="16" fill="{colour}"/>')
        parts.append(_text(LABEL + length + 6, y + 13, f"{value:.2f}"))
        if must is not None:
            x = LABEL + BARS * must / largest
            parts.append(
                f'<line x1="{x:.1f}" y1="{y - 3}" x2="{x:.1f}" y2="{y + 19}" stroke="{INK}" stroke-width="2"/>'
            )
    return _svg(WIDTH, height, parts)


def lines(title: str, axis: str, points: Sequence[tuple[float, float, float]]) -> str:
    """Seconds of both sides over a size: each point is the size, ours and the peer's. Both axes begin at 0."""
    width, height, left, bottom = 380, 260, 56, 40
    right = max((point[0] for point in points), default=1.0) or 1.0
    top = max((max(point[1:]) for point in points), default=1.0) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        wide, tall = width - left - MARGIN, height - bottom - 2 * MARGIN
        return left + wide * x / right, height - bottom - tall * y / top

    origin, corner = place(0, 0), place(right, top)
    parts = [
        _text(MARGIN, MARGIN + 4, title, weight="bold"),
        f'<path d="M{origin[0]:.1f} {corner[1]:.1f} V{origin[1]:.1f} H{corner[0]:.1f}" fill="none" stroke="{FAINT}"/>',
        _text(left, height - 8, f"{axis}, up to {right:g}"),
        _text(MARGIN, corner[1] + 4, f"{top:.3g} s"),
    ]
    for index, (colour, name) in enumerate(((OURS, "stillmotion"), (PEER, "diffusers"))):
        there = [place(point[0], point[index + 1]) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in there)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in there]
        parts.append(_text(left + 10, 2 * MARGIN + 16 * (index + 1), name, colour))
    return _svg(width, height, parts)


def _text(x: float, y: float, words: str, colour: str = INK, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-weight="{weight}">{escape(words)}</text>'


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {STYLE}>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )

"""One page that shows what curation found: self-contained, without scripts, opened from disk."""

from __future__ import annotations

import base64
import collections
import dataclasses
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ..files import atomic_path
from .charts import histogram, matrix, rank_correlation
from .manifest import Manifest, Row, is_number
from .records import REASONS, Failure, Video
from .thresholds import AXES, DUPLICATE, Cut, View, column_of, retention, tier_of

AROUND = 4  # clips on each side of a threshold
EXAMPLES = 6  # clips for each reason
STRIPS = 8  # kept clips, from the least motion to the most
FAILURES = 12  # failures shown of each reason
MAX_AXES = 24

STYLE = """

:root{color-scheme:light dark;--paper:#fbfaf8;--ink:#1d1d1f;--soft:#6b6b70;--line:#dddad4;--card:#fff;--in:#1f7a8c;
--out:#c9c5bd;--border:#c8553d}
@media(prefers-color-scheme:dark){:root{--paper:#17181a;--ink:#ececec;--soft:#9a9aa0;--line:#33353a;--card:#1f2124;
--in:#4fb3c6;--out:#50535a;--border:#f0876e}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:2.5rem 1.5rem 5rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.9rem;margin:0 0 .2rem}h2{margin:3rem 0 .6rem;font-size:1.25rem}
h3{margin:1.4rem 0 .4rem;font-size:1rem}p{max-width:70ch;color:var(--soft);margin:.3rem 0 1rem}
.numbers{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.4rem 0}
.numbers div,.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.8rem 1rem}
.numbers b{display:block;font-size:1.45rem}.numbers span{color:var(--soft)}
.grid{display:grid;gap:.9rem;grid-template-columns:repeat(auto-fill,minmax(320px,1fr))}.card{min-width:0}
.card h3{margin:0 0 .5rem;overflow-wrap:anywhere}.card small,figcaption,.soft{color:var(--soft)}
svg{display:block;width:100%}svg text{fill:var(--soft);font:10px system-ui,sans-serif}.in{fill:var(--in)}
.out{fill:var(--out)}.border{stroke:var(--border);stroke-width:1.5}table{border-collapse:collapse;width:100%}
th,td{border-bottom:1px solid var(--line);padding:.35rem .6rem;text-align:left;vertical-align:top;
overflow-wrap:anywhere}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.wide{overflow-x:auto}
.matrix{width:auto;font-size:12px}
.matrix td{white-space:nowrap;text-align:center;font-variant-numeric:tabular-nums;padding:.3rem .45rem}
.matrix th{border:0;font-weight:500;overflow-wrap:normal;white-space:nowrap}
.matrix tr:first-child th{vertical-align:bottom}
.matrix tr:first-child span{writing-mode:vertical-rl;transform:rotate(180deg)}
.strips{display:grid;gap:.9rem;grid-template-columns:repeat(auto-fill,minmax(430px,1fr))}
figure{margin:0;min-width:0}
figure img{width:100%;display:block;border-radius:8px;border:1px solid var(--line);background:#0004}
figcaption{font-size:12.5px;margin-top:.25rem;overflow-wrap:anywhere}
.key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .35em 0 .9em}
.bar{margin-top:.4rem;background:var(--out);border-radius:4px;height:.55rem;min-width:7rem;overflow:hidden}
.bar i{display:block;height:100%;background:var(--in)}
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Reported:
    """What a report shows. `strip_of` gives the file of a clip's strip of pictures, a JPEG, which may be missing."""

    title: str
    videos: Sequence[Video]
    manifest: Manifest
    view: View
    failures: Sequence[Failure]
    strip_of: Callable[[Row], Path]


def write_report(path: Path, reported: Reported) -> None:
    """Write the page. Raises StillmotionError where it cannot be written."""
    sections = (_head, _retention, _histograms, _correlation, _borders, _examples, _motion, _failures)
    body = "".join(section(reported) for section in sections)
    title = html.escape(reported.title)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Nothing is fetched and nothing runs, whatever a file name or a caption holds.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'\"><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _head(reported: Reported) -> str:
    rows, kept = reported.manifest.rows, set(reported.view.kept)
    seconds = sum(row["duration_s"] for row in rows if row["id"] in kept)
    share = len(kept) / len(rows) if rows else 0.0
    numbers = (
        (f"{len(reported.videos):,}", "videos"),
        (_duration(sum(video.duration_s for video in reported.videos)), "of footage"),
        (f"{len(rows):,}", "clips"),
        (f"{len(kept):,}", f"kept, {share:.1%}"),
        (_duration(seconds), "of kept clips"),
        (f"{len(reported.failures):,}", "failures"),
    )
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in numbers)
    return (
        f"<h1>{html.escape(reported.title)}</h1>"
        f'<p>Manifest <code>{reported.manifest.hash[:16]}</code></p><div class="numbers">{cells}</div>'
    )


def _retention(reported: Reported) -> str:
    kept = retention(reported.view, len(reported.manifest.rows))
    rows = [_retention_row(cut, kept["rules"][cut.rule.name]) for cut in reported.view.cuts]
    twins = sum(DUPLICATE in reasons for reasons in reported.view.dropped.values())
    if twins:
        share = 1 - twins / len(reported.manifest.rows)
        rows.append(
            f'<tr><td>near-duplicates</td><td>{_bar(share)}</td><td class="n">{share:.1%}</td>'
            f'<td class="n">{twins:,}</td><td class="n"></td><td class="n"></td></tr>'
        )
    rows.append(
        f'<tr><td><b>together</b></td><td>{_bar(kept["together"])}</td><td class="n"><b>{kept["together"]:.1%}</b></td>'
        f'<td class="n">{len(reported.view.dropped):,}</td><td class="n"></td><td class="n"></td></tr>'
    )
    return (
        "<h2>What stays</h2><p>Each filter by itself, and all of them together. Clips without a value are kept unless "
        "the settings say otherwise. The paper kept 26 % of its large set, and 24 % of its small one.</p>"
        '<table><tr><th>filter</th><th></th><th class="n">keeps</th><th class="n">drops</th>'
        f'<th class="n">border</th><th class="n">without a value</th></tr>{"".join(rows)}</table>'
    )


def _retention_row(cut: Cut, share: float) -> str:
    return (
        f'<tr><td>{html.escape(cut.rule.name)}</td><td>{_bar(share)}</td><td class="n">{share:.1%}</td>'
        f'<td class="n">{cut.dropped:,}</td><td class="n">{cut.told()}</td><td class="n">{cut.missing:,}</td></tr>'
    )


def _bar(share: float) -> str:
    return f'<div class="bar"><i style="width:{100 * share:.1f}%"></i></div>'


def _histograms(reported: Reported) -> str:
    manifest, kept = reported.manifest, set(reported.view.kept)
    if not manifest.axes:
        return "<h2>Scores</h2><p>Nothing was scored.</p>"
    cards = []
    for axis in manifest.axes:
        having = [row for row in manifest.rows if is_number(row.get(axis))]
        inside = [row[axis] for row in having if row["id"] in kept]
        outside = [row[axis] for row in having if row["id"] not in kept]
        borders = [border for cut in _cuts_of(axis, reported) for border in cut.borders.values()]
        values = sorted([*inside, *outside])
        note = f"{len(having):,} values, median {values[len(values) // 2]:.4g}"
        drawn = histogram(inside, outside, borders)
        cards.append(f'<div class="card"><h3>{html.escape(axis)}</h3>{drawn}<small>{note}</small></div>')
    key = (
        '<p class="key"><i style="background:var(--in)"></i>kept<i style="background:var(--out)"></i>dropped'
        '<i style="background:var(--border)"></i>threshold</p>'
    )
    return f'<h2>Scores</h2>{key}<div class="grid">{"".join(cards)}</div>'


def _cuts_of(axis: str, reported: Reported) -> list[Cut]:
    known = reported.manifest.measures
    return [cut for cut in reported.view.cuts if column_of(cut.rule.column, known) == axis]


def _correlation(reported: Reported) -> str:
    manifest = reported.manifest
    # The paper's first, which what is too much for one picture must not push out.
    filtered = {column for axis in AXES.values() for column in axis.columns}
    varying = [axis for axis in manifest.axes if _varies(manifest.rows, axis)]
    axes = sorted(varying, key=lambda axis: axis not in filtered)[:MAX_AXES]
    if len(axes) < 2 or len(manifest.rows) < 3:
        return ""
    values = [[_correlated(manifest.rows, one, other) for other in axes] for one in axes]
    return (
        "<h2>How scores go together</h2><p>Spearman's rank correlation over the clips that have both values. Two "
        f"filters on axes that go together drop the same clips.</p>{matrix(axes, values)}"
    )


def _varies(rows: Sequence[Row], axis: str) -> bool:
    return len({row[axis] for row in rows if is_number(row.get(axis))}) > 1


def _correlated(rows: Sequence[Row], one: str, other: str) -> float | None:
    both = [(row[one], row[other]) for row in rows if is_number(row.get(one)) and is_number(row.get(other))]
    return rank_correlation([pair[0] for pair in both], [pair[1] for pair in both]) if len(both) > 2 else None


def _borders(reported: Reported) -> str:
    found = []
    for cut in reported.view.cuts:
        column = column_of(cut.rule.column, reported.manifest.measures)
        rows = [row for row in reported.manifest.rows if is_number(row.get(column))]
        rows.sort(key=lambda row, column=column: (row[column], row["id"]))
        for tier, border in sorted(cut.borders.items()):
            inside = [row for row in rows if not tier or tier_of(row) == tier]
            below = [row for row in inside if row[column] < border][-AROUND:]
            above = [row for row in inside if row[column] >= border][:AROUND]
            where = f"{html.escape(cut.rule.name)}, border {border:.4g}" + (f" at {tier}p" if tier else "")
            if inside:
                found.append(f"<h3>{where}</h3>{_strips([*below, *above], reported, (column,))}")
    if not found:
        return ""
    intro = "<p>The clips nearest to each border, from low to high. If they look alike, the border could move.</p>"
    return f"<h2>Around each threshold</h2>{intro}{''.join(found)}"


def _examples(reported: Reported) -> str:
    groups: dict[str, list[Row]] = {}
    for row in reported.manifest.rows:
        for rule in reported.view.dropped.get(row["id"], ()):
            groups.setdefault(rule, []).append(row)
    if not groups:
        return ""
    found = []
    for rule, rows in sorted(groups.items()):
        step = max(1, len(rows) // EXAMPLES)
        columns = _columns_of(rule, reported)
        strips = _strips(rows[::step][:EXAMPLES], reported, columns)
        found.append(f"<h3>{html.escape(rule)}: {len(rows):,} clips</h3>{strips}")
    return f"<h2>Dropped, by reason</h2>{''.join(found)}"


def _columns_of(rule: str, reported: Reported) -> tuple[str, ...]:
    known = reported.manifest.measures
    return tuple(column_of(cut.rule.column, known) for cut in reported.view.cuts if cut.rule.name == rule)


def _motion(reported: Reported) -> str:
    column = next((each for each in AXES["motion"].columns if each in reported.manifest.axes), None)
    kept = set(reported.view.kept)
    if column is None:
        return ""
    rows = [row for row in reported.manifest.rows if row["id"] in kept and is_number(row.get(column))]
    rows.sort(key=lambda row: (row[column], row["id"]))
    places = [round(index * (len(rows) - 1) / max(1, STRIPS - 1)) for index in range(STRIPS)] if rows else []
    chosen = [rows[place] for place in dict.fromkeys(places)]
    return (
        "<h2>Kept, from still to moving</h2><p>Five moments of each clip, evenly spaced by rank of motion.</p>"
        f"{_strips(chosen, reported, (column,))}"
    )


def _strips(rows: Iterable[Row], reported: Reported, columns: Sequence[str]) -> str:
    return f'<div class="strips">{"".join(_strip(row, reported, columns) for row in rows)}</div>'


def _strip(row: Row, reported: Reported, columns: Sequence[str]) -> str:
    path = reported.strip_of(row)
    data = base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""
    image = f'<img alt="" src="data:image/jpeg;base64,{data}">' if data else '<div class="card soft">no picture</div>'
    notes = [f"{name} {row[name]:.4g}" for name in columns if is_number(row.get(name))]
    notes += ["dropped"] * (row["id"] in reported.view.dropped)
    where = f"{html.escape(row['source'])} at {row['start_s']:.1f} s, {row['duration_s']:.1f} s long"
    return f"<figure>{image}<figcaption><b>{html.escape(', '.join(notes))}</b><br>{where}</figcaption></figure>"


def _failures(reported: Reported) -> str:
    if not reported.failures:
        return "<h2>Failures</h2><p>None.</p>"
    meanings: Mapping[str, str] = dict(REASONS)
    counted = collections.Counter(failure.reason for failure in reported.failures)
    parts = []
    for reason, count in counted.most_common():
        rows = [failure for failure in reported.failures if failure.reason == reason]
        lines = "".join(
            f"<tr><td>{html.escape(row.source)}</td><td>{html.escape(row.stage)}</td><td>{html.escape(row.detail)}</td></tr>"
            for row in rows[:FAILURES]
        )
        more = f"<p>and {count - FAILURES:,} more</p>" if count > FAILURES else ""
        meaning = html.escape(meanings.get(reason, ""))
        parts.append(f"<h3>{html.escape(reason)}: {count:,}</h3><p>{meaning}</p><table>{lines}</table>{more}")
    return f"<h2>Failures</h2>{''.join(parts)}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

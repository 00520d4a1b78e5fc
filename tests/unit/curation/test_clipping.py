"""Clips hold the frames of their span and no other: bits equal where copied, the same pictures where encoded."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stillmotion.curation import clipping
from stillmotion.curation.clipping import ClipConfig, clip_file, cut_clips
from stillmotion.curation.identify import identify
from stillmotion.curation.observe import Observed, observe
from stillmotion.curation.prints import PrintObserver
from stillmotion.curation.records import REASONS, Clip, Failure, Span, Video
from stillmotion.media.packets import steady_times

from .encoded import FRAMES, QUICK, SOURCES, Shown, h264, make, shown, write

CODECS = Path(__file__).parents[2] / "data" / "media" / "codecs"
SPANS = (Span(5, 70), Span(30, 49))  # one within the other, so that they take two readings
NEAR_DB = 30.0


@dataclasses.dataclass(frozen=True)
class Whole:
    """A source with everything that is known of it."""

    path: Path
    video: Video
    observed: Observed
    shown: Shown

    def cut(self, folder: Path, spans: Sequence[Span], **cfg: object) -> tuple[list[Clip], list[Failure]]:
        settings = ClipConfig(**({"min_s": 0.01} | cfg))  # type: ignore[arg-type]
        return cut_clips(self.path, self.video, spans, self.observed, settings, folder)


def known(path: Path) -> Whole:
    video = identify(path, path.name)
    assert isinstance(video, Video), video
    return Whole(path, video, observe(path, [PrintObserver()]), shown(path))


@pytest.fixture(scope="module")
def h264_source(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return known(make(tmp_path_factory.mktemp("source"), "h264"))


def equal_frames(source: Whole, clip: Clip, folder: Path) -> int:
    """How many frames of a clip equal the source's; every number, time and size in it is checked on the way."""
    found = shown(clip_file(folder, clip))
    assert len(found.hashes) == clip.frames
    times = steady_times(source.shown.times_s)[clip.first : clip.last + 1]
    np.testing.assert_allclose(found.times_s, times - times[0], atol=1.1e-3)  # Matroska counts in milliseconds
    assert clip.start_s == pytest.approx(times[0], abs=1.1e-3)
    again = identify(clip_file(folder, clip), clip.source)
    assert isinstance(again, Video)
    assert (again.width, again.height, again.sha256, again.bytes) == (clip.width, clip.height, clip.sha256, clip.bytes)
    return sum(ours == theirs for ours, theirs in zip(found.hashes, source.shown.hashes[clip.first :], strict=False))


def check_clips(source: Whole, folder: Path, spans: Sequence[Span], mode: str) -> list[Clip]:
    """Every clip lies within its span, and has its frames."""
    clips, failures = source.cut(folder, spans, mode=mode)
    assert len(clips) + len(failures) == len(spans)
    assert {failure.reason for failure in failures} <= ({"no_keyframe"} if mode == "copy" else set())
    for clip in clips:
        within = [span for span in spans if span.first <= clip.first and clip.last <= span.last]
        span = max(within, key=lambda span: (span.first, -span.last))
        equal = equal_frames(source, clip, folder)
        if clip.mode == "copy":
            assert equal == clip.frames
        else:
            assert (clip.first, clip.last) == (span.first, span.last)
        if clip.mode == "edges":
            assert 0 < equal < clip.frames
    return clips


@pytest.mark.parametrize("name", QUICK)
def test_clips_of_each_kind_of_video(tmp_path: Path, name: str) -> None:
    source = known(make(tmp_path, name))
    check_clips(source, tmp_path / "copy", SPANS[:1], "copy")
    check_clips(source, tmp_path / "edges", SPANS, "edges")


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_many_clips_of_every_kind_of_video(tmp_path: Path, name: str) -> None:
    source = known(make(tmp_path, name))
    draw = np.random.default_rng(len(name))
    pairs = [sorted(draw.choice(FRAMES, 2, replace=False).tolist()) for _ in range(6)]
    for first, last in [(0, FRAMES - 1), *pairs]:
        for mode in ("copy", "edges", "encode"):
            check_clips(source, tmp_path / mode, [Span(first, last)], mode)


@pytest.mark.parametrize(
    ("name", "mode"),
    {
        "h264": "edges",
        "h264 open": "encode",  # a new parameter set may begin at an IDR picture alone, and there is none
        "h265 open": "edges",
        "vp9": "encode",
    }.items(),
)
def test_the_mode_says_how_a_clip_was_made(tmp_path: Path, name: str, mode: str) -> None:
    (clip,), _ = known(make(tmp_path, name)).cut(tmp_path / "out", SPANS[:1], mode="edges")
    assert clip.mode == mode


def test_gradual_refresh_is_no_place_to_begin(tmp_path: Path) -> None:
    """Its packets are marked as keyframes, and show damage until the refresh is over."""
    source = known(make(tmp_path, "h264 intra refresh"))
    with av.open(str(source.path)) as container:
        assert sum(packet.is_keyframe for packet in container.demux(video=0)) > 2
    _, (failure,) = source.cut(tmp_path / "out", [Span(10, 70)], mode="copy")
    assert failure.reason == "no_keyframe"


@pytest.mark.parametrize("path", sorted(CODECS.glob("*.[mwa][pev]*")), ids=lambda path: path.name)
def test_files_found_in_the_wild(tmp_path: Path, path: Path) -> None:
    source = known(path)
    count = source.observed.frames
    check_clips(source, tmp_path / "copy", [Span(0, count - 1)], "copy")
    if source.video.width <= 480:
        check_clips(source, tmp_path / "edges", [Span(count // 3, count - 2)], "edges")


def test_a_turned_video_stays_upright(tmp_path: Path) -> None:
    source = known(CODECS / "nasa_13013_rotated.mp4")
    assert (source.video.rotation, source.video.width, source.video.height) == (270, 270, 480)
    for mode in ("copy", "encode"):
        (clip,), _ = source.cut(tmp_path / mode, [Span(0, 16)], mode=mode)
        again = known(clip_file(tmp_path / mode, clip))
        assert (again.video.width, again.video.height) == (270, 480)
        assert again.video.rotation == (270 if mode == "copy" else 0)


def arrays(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray().astype(float) for frame in container.decode(video=0)]


@pytest.mark.parametrize(("name", "peak"), [("h264 10 bits", 1023), ("h264 full range", 255), ("h265 ts", 255)])
@pytest.mark.parametrize("mode", ["edges", "encode"])
def test_encoded_frames_are_nearly_the_source_s(tmp_path: Path, name: str, peak: int, mode: str) -> None:
    source = known(make(tmp_path, name))
    (clip,), _ = source.cut(tmp_path / "out", [Span(14, 50)], mode=mode)
    path = clip_file(tmp_path / "out", clip)
    again = identify(path, "clip")
    assert isinstance(again, Video) and again.pixel_format == source.video.pixel_format and clip.mode == mode
    for ours, theirs in zip(arrays(path), arrays(source.path)[14:51], strict=True):
        assert 10 * np.log10(peak**2 / max(np.mean((ours - theirs) ** 2), 1e-9)) > NEAR_DB


def test_colour_tags_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "tagged.mp4"
    write(path, h264(more="bframes=2:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"))
    for mode in ("copy", "edges", "encode"):
        (clip,), _ = known(path).cut(tmp_path / mode, [Span(3, 70)], mode=mode)
        with av.open(str(clip_file(tmp_path / mode, clip))) as container:
            for frame in container.decode(video=0):
                assert (frame.color_primaries, frame.color_trc, frame.colorspace) == (9, 16, 9), mode


def test_the_same_bytes_each_time(tmp_path: Path, h264_source: Whole) -> None:
    for mode in ("copy", "edges", "encode"):
        runs = [h264_source.cut(tmp_path / f"{mode}{run}", SPANS[:1], mode=mode)[0] for run in (1, 2)]
        assert runs[0] == runs[1] and runs[0]


def test_the_index_stands_at_the_front_and_sound_is_gone(tmp_path: Path, h264_source: Whole) -> None:
    (clip,), _ = h264_source.cut(tmp_path, [Span(0, 79)], mode="copy")
    data = clip_file(tmp_path, clip).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{clip.id}.mp4"]


def test_a_slower_rate_keeps_evenly_spaced_frames(tmp_path: Path, h264_source: Whole) -> None:
    (clip,), _ = h264_source.cut(tmp_path, [Span(10, 59)], fps=10.0)
    found = shown(clip_file(tmp_path, clip))
    assert clip.mode == "encode" and clip.fps == pytest.approx(10, rel=0.02)
    assert len(found.hashes) == 20
    np.testing.assert_allclose(np.diff(found.times_s), 0.1, atol=0.021)


def test_a_rate_above_the_video_s_changes_nothing(tmp_path: Path, h264_source: Whole) -> None:
    (clip,), _ = h264_source.cut(tmp_path, [Span(0, 79)], fps=25.0)
    assert (clip.mode, clip.frames, clip.fps) == ("copy", 80, 25.0)


def test_too_little_that_can_be_copied(tmp_path: Path, h264_source: Whole) -> None:
    clips, (failure,) = h264_source.cut(tmp_path, [Span(20, 60)], mode="copy", min_s=1.5)
    assert not clips and failure.reason == "too_short" and "1.5 s" in failure.detail


def test_a_copy_that_shows_other_pixels_is_encoded_instead(tmp_path: Path, h264_source: Whole) -> None:
    """The last line of defence, against what no table of codecs foresees."""
    columns = dict(h264_source.observed.columns)
    values = columns["prints.value"].copy()
    values[30] += np.uint64(1)  # a frame that no decoding gives again
    wrong = dataclasses.replace(
        h264_source, observed=dataclasses.replace(h264_source.observed, columns=columns | {"prints.value": values})
    )
    clips, failures = wrong.cut(tmp_path, [Span(0, 23), Span(24, 47)], mode="copy")
    assert [(clip.first, clip.mode) for clip in clips] == [(0, "copy")]
    assert [failure.reason for failure in failures] == ["not_cut"]


def test_foreign_frames_would_be_noticed(tmp_path: Path, h264_source: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(frames: clipping.FrameMap, first: int, last: int, is_closed: bool = False) -> clipping.Run:
        return clipping.Run(int(frames.places[first : last + 1].min()), int(frames.places[last]) + 1, first, last)

    monkeypatch.setattr(clipping, "copyable", careless)
    (clip,), failures = h264_source.cut(tmp_path, [Span(30, 60)], mode="copy")
    assert clip.mode == "encode" and not failures


def test_a_pass_without_prints_is_made_up_for(tmp_path: Path, h264_source: Whole) -> None:
    bare = dataclasses.replace(h264_source, observed=observe(h264_source.path, []))
    assert bare.cut(tmp_path / "bare", SPANS) == h264_source.cut(tmp_path / "whole", SPANS)


@pytest.mark.parametrize(("code", "reason"), [(errno.ENOSPC, "disk_full"), (errno.EACCES, "unreadable")])
def test_a_disk_that_refuses(
    tmp_path: Path, h264_source: Whole, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(clipping, "write_clips", refuse)
    clips, failures = h264_source.cut(tmp_path, SPANS)
    assert not clips and [failure.reason for failure in failures] == [reason, reason]
    assert not list(tmp_path.iterdir())


def test_a_full_disk(h264_source: Whole) -> None:
    """/dev/full takes no byte; what is written there is what a full disk says."""
    splice = clipping.Splice(clipping.Run(0, 24, 0, 23))
    frames = clipping.map_frames(
        h264_source.path, h264_source.observed.columns["prints.packet"], h264_source.observed.times_s
    )
    with pytest.raises(OSError) as caught:
        clipping.write_clips(h264_source.path, frames, [(splice, Path("/dev/full"))])
    assert caught.value.errno == errno.ENOSPC


def test_a_folder_that_cannot_be_made(tmp_path: Path, h264_source: Whole) -> None:
    (tmp_path / "file").touch()
    clips, (failure,) = h264_source.cut(tmp_path / "file" / "out", SPANS)
    assert not clips and failure.reason == "unreadable"


def test_a_video_that_vanishes(tmp_path: Path, h264_source: Whole) -> None:
    gone = dataclasses.replace(h264_source, path=tmp_path / "gone.mp4")
    clips, (failure,) = gone.cut(tmp_path / "out", SPANS)
    assert not clips and failure.reason in dict(REASONS)


def test_nothing_planned(tmp_path: Path, h264_source: Whole) -> None:
    assert h264_source.cut(tmp_path / "out", []) == ([], [])
    assert not (tmp_path / "out").exists()


def chain(path: Path, folder: Path) -> str:
    """Identify a file, look at all of it, and cut it: the word that it ends with."""
    video = identify(path, path.name)
    if isinstance(video, Failure):
        return video.reason
    try:
        observed = observe(path, [PrintObserver()])
    except clipping.MediaError:
        return "unreadable"
    cfg = ClipConfig(min_s=0.2)
    spans = clipping.plan_clips([Span(0, observed.frames - 1)], [], observed, cfg)
    clips, failures = cut_clips(path, video, spans, observed, cfg, folder)
    assert len(clips) + len(failures) == len(spans) or failures
    for clip in clips:
        assert len(shown(clip_file(folder, clip)).hashes) == clip.frames
        os.unlink(clip_file(folder, clip))
    words = {failure.reason for failure in failures}
    assert words <= set(dict(REASONS))
    return "clips" if clips else next(iter(words), "nothing planned")


def flipped(data: bytes, draw: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in draw.integers(0, len(data), int(draw.integers(1, 12))):
        changed[place] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def cut_short(data: bytes, draw: np.random.Generator) -> bytes:
    return data[: int(draw.integers(1, len(data)))]


@pytest.mark.parametrize("damage", [flipped, cut_short])
@pytest.mark.parametrize("name", ["h264", "vp8"])
def test_damaged_files_end_with_a_word(
    tmp_path: Path, name: str, damage: Callable[[bytes, np.random.Generator], bytes]
) -> None:
    words = damaged_words(tmp_path, name, damage, 6)
    assert words


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flipped, cut_short])
@pytest.mark.parametrize("name", ["h264", "h264 ts", "h265 open", "vp8", "av1", "mpeg4 avi", "h264 flv", "mpeg2"])
def test_many_damaged_files_end_with_a_word(
    tmp_path: Path, name: str, damage: Callable[[bytes, np.random.Generator], bytes]
) -> None:
    assert damaged_words(tmp_path, name, damage, 25)


def damaged_words(
    folder: Path, name: str, damage: Callable[[bytes, np.random.Generator], bytes], count: int
) -> list[str]:
    path = make(folder, name, 40)
    data, draw = path.read_bytes(), np.random.default_rng(7)
    words = []
    for _ in range(count):
        path.write_bytes(damage(data, draw))
        words.append(chain(path, folder / "out"))
    return words


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_damage_in_the_middle_leaves_the_rest(tmp_path: Path, suffix: str, place: int) -> None:
    path = tmp_path / f"long.{suffix}"
    write(path, h264(suffix, keyint=20), 120)
    sound = set(shown(path).hashes)
    data = bytearray(path.read_bytes())
    start = len(data) * (20 + 3 * place) // 60
    # From where a packet begins: of a picture of which only the end is overwritten, neither Matroska nor the decoder
    # says anything (docs/clips.md); and a picture that a transport stream has lost whole, its clock alone tells of.
    with av.open(str(path)) as container:
        start = next(each.pos for each in container.demux(video=0) if each.pos and each.pos >= start)
    data[start : start + 400] = bytes(400)
    path.write_bytes(bytes(data))
    video = identify(path, "long")
    assert isinstance(video, Video)
    observed = observe(path, [PrintObserver()])
    cfg = ClipConfig(min_s=0.2, mode="copy")
    spans = clipping.plan_clips([Span(0, observed.frames - 1)], [], observed, cfg)
    clips, _ = cut_clips(path, video, spans, observed, cfg, tmp_path / "out")
    assert sum(clip.frames for clip in clips) > 40
    for clip in clips:
        assert set(shown(clip_file(tmp_path / "out", clip)).hashes) <= sound


def test_time_base_is_kept(tmp_path: Path) -> None:
    source = known(make(tmp_path, "h264 vfr"))
    (clip,), _ = source.cut(tmp_path / "out", [Span(0, 79)], mode="copy")
    with av.open(str(clip_file(tmp_path / "out", clip))) as container:
        assert container.streams.video[0].time_base == Fraction(1, 90_000)

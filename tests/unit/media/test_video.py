"""Videos come back with the colours, the count, the rate and the metadata that went in; bad ones give a sentence."""

from __future__ import annotations

import os
import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from stillmotion.errors import MediaError, StillmotionError, UsageError
from stillmotion.media.formats import Encoding
from stillmotion.media.video import read_video, write_video

PATCHES = np.array(
    [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]],
        [[0, 0, 0], [128, 128, 128], [200, 100, 50], [20, 150, 220]],
    ],
    np.uint8,
)
SIDE = 32


def _patches(count: int) -> np.ndarray:
    return np.repeat(PATCHES.repeat(SIDE, axis=0).repeat(SIDE, axis=1)[None], count, axis=0)


def _noise(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def _assert_sentence_ends(text: str) -> None:
    assert text.endswith(".")
    assert "\n" not in text


def _centres(frame: np.ndarray) -> np.ndarray:
    return frame[SIDE // 2 :: SIDE, SIDE // 2 :: SIDE].astype(int)


# ITU-T H.273, 8.3: the luma weights (Kr, Kb) of each matrix.
WEIGHTS = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}


def _to_yuv(rgb: np.ndarray, matrix: str, full_range: bool) -> np.ndarray:
    """The 8-bit Y'CbCr of H.273 equations 38 to 43, by hand."""
    red, blue = WEIGHTS[matrix]
    values = rgb.astype(np.float64) / 255
    luma = values @ np.array([red, 1 - red - blue, blue])
    chroma_blue = (values[..., 2] - luma) / (2 * (1 - blue))
    chroma_red = (values[..., 0] - luma) / (2 * (1 - red))
    span, offset, chroma_span = (255, 0, 255) if full_range else (219, 16, 224)
    planes = [luma * span + offset, chroma_blue * chroma_span + 128, chroma_red * chroma_span + 128]
    return np.stack(planes, axis=-1).round().clip(0, 255).astype(np.uint8)


def _planes(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p"
        return [np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size) for plane in frame.planes]


def test_the_stored_bytes_are_bt709_limited_range(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, _patches(2), 7)
    luma, blue, red = _planes(path)
    half = SIDE // 2
    stored = np.stack(
        [
            luma[half::SIDE, half : 4 * SIDE : SIDE],
            blue[half // 2 :: half, half // 2 : 2 * SIDE : half],
            red[half // 2 :: half, half // 2 : 2 * SIDE : half],
        ],
        axis=-1,
    ).astype(int)
    assert np.abs(stored - _to_yuv(PATCHES, "bt709", full_range=False)).max() <= 1
    assert np.abs(stored - _to_yuv(PATCHES, "bt601", full_range=False)).max() > 20  # so the test can tell


def test_colours_count_and_tags_come_back(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, _patches(14), 7)
    video = read_video(path)
    assert video.frames.shape == (14, 2 * SIDE, 4 * SIDE, 3)
    assert video.frames.dtype == np.uint8
    for frame in video.frames:
        assert np.abs(_centres(frame) - PATCHES).max() <= 2
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert [context.colorspace, context.color_primaries, context.color_trc, context.color_range] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("fps", "exact"), [(7, 7), (29.97, Fraction(2997, 100)), (30000 / 1001, Fraction(30000, 1001)), (0.5, 0.5)]
)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_rate_and_count_are_exact(tmp_path, fps, exact, count):
    path = tmp_path / "a.mp4"
    write_video(path, _noise(count), fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == exact
        assert stream.frames == count
        assert stream.duration * stream.time_base == Fraction(count) / Fraction(exact)
        times = [frame.pts * frame.time_base for frame in container.decode(stream)]
    assert times == [Fraction(number) / Fraction(exact) for number in range(count)]
    assert read_video(path).fps == float(exact)


def test_frames_come_back_in_order_and_near_the_source(tmp_path):
    path = tmp_path / "a.mp4"
    frames = np.zeros((12, 32, 32, 3), np.uint8)
    frames += (20 * np.arange(12, dtype=np.uint8))[:, None, None, None]
    write_video(path, frames, 12)
    assert np.abs(read_video(path).frames.astype(int) - frames).max() <= 3
    assert len(read_video(path, max_frames=5).frames) == 5


def test_quality_changes_the_size(tmp_path):
    sizes = []
    for quality in (100, 90, 30):
        write_video(tmp_path / f"{quality}.mp4", _noise(3), 7, Encoding(quality=quality))
        sizes.append((tmp_path / f"{quality}.mp4").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[2]


@pytest.mark.parametrize(("height", "width"), [(33, 47), (1, 1), (2, 3), (17, 16)])
def test_an_odd_size_repeats_its_last_row_and_column(tmp_path, height, width):
    path = tmp_path / "a.mp4"
    frames = np.full((2, height, width, 3), (40, 120, 200), np.uint8)
    frames[:, -1:, :] = frames[:, :, -1:] = (220, 160, 90)
    notes = write_video(path, frames, 7, Encoding(quality=100))
    assert len(notes) == 1
    _assert_sentence_ends(notes[0])
    back = read_video(path).frames
    assert back.shape == (2, height + height % 2, width + width % 2, 3)
    # Colour is shared with the pixels beside, luma is not.
    luma = np.array([0.2126, 0.7152, 0.0722])
    edge = np.concatenate([back[:, -1:].reshape(-1, 3)] * (height % 2) + [back[:, :, -1].reshape(-1, 3)] * (width % 2))
    assert np.abs(edge @ luma - np.array((220, 160, 90)) @ luma).max() <= 4
    assert np.abs(edge.astype(int) - (220, 160, 90)).max() <= 40


def test_the_index_stands_before_the_data(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, _noise(3), 7)
    data, order, place = path.read_bytes(), [], 0
    while place < len(data):
        order.append(data[place + 4 : place + 8])
        place += int.from_bytes(data[place : place + 4], "big")
    assert order.index(b"moov") < order.index(b"mdat")


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        write_video(path, _noise(2), 7)
    assert path.read_text() == "mine"
    write_video(path, _noise(2), 7, overwrite=True)
    assert len(read_video(path).frames) == 2
    assert os.listdir(tmp_path) == ["a.mp4"]


def _assert_sentence(error: BaseException) -> None:
    text = str(error)
    assert text.endswith(".")
    assert "\n" not in text
    assert "expected" in text


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e9, 1e-9])
def test_a_rate_that_is_none_is_refused(tmp_path, fps):
    with pytest.raises(UsageError, match="play_fps") as caught:
        write_video(tmp_path / "a.mp4", _noise(2), fps)
    _assert_sentence(caught.value)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "frames",
    [_noise(2)[:0], _noise(2)[0], _noise(2)[..., :2], _noise(2).astype(np.float32), _noise(2)[:, :0], [[1]]],
)
def test_frames_of_another_kind_are_refused(tmp_path, frames):
    with pytest.raises(UsageError) as caught:
        write_video(tmp_path / "a.mp4", frames, 7)
    _assert_sentence(caught.value)


def test_a_size_that_the_encoder_does_not_have_gives_a_sentence(tmp_path):
    with pytest.raises(UsageError, match="cannot hold 40000x2"):
        write_video(tmp_path / "a.mp4", np.zeros((1, 2, 40_000, 3), np.uint8), 7)
    assert not os.listdir(tmp_path)


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
    path = tmp_path / "a.ivf"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.height, stream.width, stream.pix_fmt = 2 * SIDE, 4 * SIDE, "yuv420p"
        encoders = [stream, av.CodecContext.create("libvpx", "w")]
        encoders[1].height, encoders[1].width, encoders[1].pix_fmt = SIDE, 2 * SIDE, "yuv420p"
        encoders[1].time_base, encoders[1].framerate = Fraction(1, 10), Fraction(10)
        for number, (encoder, step) in enumerate(zip(encoders, (1, 2), strict=True)):
            pixels = np.ascontiguousarray(_patches(1)[0, ::step, ::step])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.stream = stream
                container.mux(packet)
    video = read_video(path)
    assert video.frames.shape == (2, 2 * SIDE, 4 * SIDE, 3)
    assert np.abs(_centres(video.frames[1]) - PATCHES).max() <= 24


def test_fewer_than_one_frame_is_refused(tmp_path):
    with pytest.raises(UsageError, match="max_frames"):
        read_video(tmp_path / "a.mp4", max_frames=0)


@pytest.mark.parametrize("limit", [1, 1000, 6000, -1])
def test_a_full_disk_gives_a_sentence_and_leaves_nothing(tmp_path, limit):
    frames = _noise(6)
    whole = tmp_path / "whole.mp4"
    write_video(whole, frames, 7)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit if limit > 0 else whole.stat().st_size - 1, before[1]))
    try:
        with pytest.raises(StillmotionError, match="disk is full"):
            write_video(tmp_path / "a.mp4", frames, 7)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["whole.mp4"]


def _write_by_hand(path: Path, frames: np.ndarray, matrix: str, full_range: bool, rotation: int = 0) -> None:
    """Frames as lossless yuv444p, converted by the equations above, tagged through PyAV."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0", "preset": "ultrafast"})
        context = stream.codec_context
        context.height, context.width = frames.shape[1:3]
        context.pix_fmt = "yuv444p"
        context.colorspace = {"bt709": Colorspace.ITU709, "bt601": Colorspace.ITU601}[matrix]
        context.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
        if rotation:
            stream.set_display_rotation(rotation % 360, hflip=rotation > 360)
        for pixels in frames:
            planes = np.ascontiguousarray(_to_yuv(pixels, matrix, full_range).transpose(2, 0, 1))
            frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
            frame.colorspace, frame.color_range = int(context.colorspace), context.color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["bt709", "bt601"])
def test_matrix_and_range_tags_are_honoured(tmp_path, matrix, full_range):
    path = tmp_path / "a.mp4"
    _write_by_hand(path, _patches(2), matrix, full_range)
    assert np.abs(_centres(read_video(path).frames[1]) - PATCHES).max() <= 2


# 360 + angle: mirrored as well
@pytest.mark.parametrize("rotation", [90, 180, 270, 360 + 90, 360 + 180, 360 + 270])
def test_the_display_matrix_is_honoured(tmp_path, rotation):
    path = tmp_path / "a.mp4"
    frames = _patches(2)
    _write_by_hand(path, frames, "bt709", False, rotation)
    expected = np.rot90(PATCHES, rotation % 360 // 90)  # counter-clockwise, and so is PyAV's angle
    expected = expected[:, ::-1] if rotation > 360 else expected
    read = _centres(read_video(path).frames[0])
    assert read.shape == expected.shape
    assert np.abs(read - expected).max() <= 2


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mkv", "ffv1", "yuv420p10le"),
        ("a.mov", "prores_ks", "yuv422p10le"),
        ("a.mp4", "libx265", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_other_containers_and_codecs_are_read(tmp_path, name, codec, pixel_format):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 2 * SIDE, 4 * SIDE, pixel_format
        for pixels in _patches(3):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixel_format, dst_colorspace=Colorspace.ITU601)))
        container.mux(stream.encode(None))
    video = read_video(path)
    assert video.frames.shape == (3, 2 * SIDE, 4 * SIDE, 3)
    assert video.fps == pytest.approx(10)
    # the coarse quantisers of mpeg4, and the 8 levels of rgb8, move a flat patch this far
    assert np.abs(_centres(video.frames[1]) - PATCHES).max() <= (64 if codec == "gif" else 16)


def test_a_video_that_was_cut_off_is_refused(tmp_path):
    whole, path = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    write_video(whole, _noise(9), 7)
    data = whole.read_bytes()
    for share in np.linspace(0.0, 0.99, 23):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(MediaError) as caught:
            read_video(path)
        _assert_sentence(caught.value)


def test_what_is_no_video_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "playlist.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/real.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile real.mp4\n")
    write_video(tmp_path / "real.mp4", _noise(2), 7)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 48000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    for name in ("text.mp4", "empty.mp4", "playlist.mp4", "list.mp4", "sound.mp4", "missing.mp4", "."):
        with pytest.raises(MediaError) as caught:
            read_video(tmp_path / name)
        _assert_sentence(caught.value)
        assert str(tmp_path) in str(caught.value)


def test_names_that_look_like_addresses_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http:a.mp4", "-b.mp4", "c %d é.mp4"):
        write_video(Path(name), _noise(2), 7)
        assert len(read_video(Path(name)).frames) == 2
    assert sorted(os.listdir(tmp_path)) == ["-b.mp4", "c %d é.mp4", "http:a.mp4"]

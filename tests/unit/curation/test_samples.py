from __future__ import annotations

import cmath
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from stillmotion.config import ConfigError
from stillmotion.curation.observe import observe
from stillmotion.curation.records import Span
from stillmotion.curation.samples import SampleConfig, SampleObserver, span_scores

from .sights import filmed, photograph, sampled, seen_from, sights, smooth, video_of

SIZE = (320, 180)
ALL = Span(0, 29)


def scores_of(canvas, place, size=SIZE, seconds=3.0, video=None):
    observed = sampled(filmed(canvas, size, seconds, place))
    return span_scores(observed, Span(0, observed.frames - 1), video or video_of(*size))


def pan(heights_s: complex, size=SIZE):
    return lambda time: (heights_s * time * size[1], 1 + 0j)


class TestMotion:
    @pytest.mark.parametrize("speed", [0.02, 0.1, 0.3])
    @pytest.mark.parametrize(
        "canvas", [photograph("coffee"), photograph("astronaut"), smooth(8)], ids=["cup", "face", "smooth"]
    )
    def test_is_the_speed_in_heights_a_second(self, canvas, speed):
        found = scores_of(canvas, pan(cmath.rect(speed, 0.6)), seconds=1.6)
        assert found["motion"] == pytest.approx(speed, rel=0.08)

    def test_grows_with_the_speed(self):
        canvas, before = photograph("chelsea"), -1.0
        for speed in (0, 0.005, 0.02, 0.06, 0.15, 0.25, 0.38):
            motion = scores_of(canvas, pan(speed * 1j), seconds=1.1)["motion"]
            assert motion > before
            before = motion

    @pytest.mark.parametrize("height", [180, 540, 1080])
    def test_is_the_same_at_every_size(self, height):
        size = (height * 16 // 9, height)
        canvas = cv2.resize(photograph("coffee", 600), None, fx=height / 300, fy=height / 300)
        assert scores_of(canvas, pan(0.12, size), size, 0.6)["motion"] == pytest.approx(0.12, rel=0.05)

    def test_of_portrait_video_counts_its_long_side(self):
        found = scores_of(photograph("chelsea"), pan(0.2j, (90, 160)), (90, 160), 1.1)
        assert found["motion"] == pytest.approx(0.2, rel=0.08)

    def test_of_a_turned_video_is_upright(self):
        # Stored as 320x180 and shown a quarter clockwise: what goes right in store goes down when shown.
        found = scores_of(photograph(), pan(0.2), SIZE, 1.1, video_of(180, 320, rotation=90))
        assert found["motion"] == pytest.approx(0.2 * 180 / 320, rel=0.06)
        assert found["camera.class"] == "tilt up" and found["camera.tilt"] == pytest.approx(-0.1125, rel=0.1)

    def test_noise_and_flicker_are_not_motion(self):
        canvas, dice = photograph("astronaut"), np.random.default_rng(0)
        still = seen_from(canvas, SIZE).astype(np.float64)
        frames = [np.clip(still * (1 + 0.1 * (k % 2)) + dice.normal(0, 3, still.shape), 0, 255) for k in range(30)]
        observed = sampled(frame.astype(np.uint8) for frame in frames)
        noise = span_scores(observed, ALL, video_of(*SIZE))
        slow = scores_of(canvas, pan(0.01))
        assert noise["motion"] < 0.005 < slow["motion"]
        assert noise["camera.class"] == "static"

    def test_never_reaches_across_a_transition(self):
        one, other = photograph("coffee"), photograph("astronaut")
        frames = [seen_from(one if k < 12 else other, SIZE) for k in range(24)]
        observed = sampled(frames)
        for span in (Span(0, 11), Span(12, 23)):
            assert span_scores(observed, span, video_of(*SIZE))["motion"] == pytest.approx(0, abs=1e-3)
        assert span_scores(observed, Span(0, 23), video_of(*SIZE))["motion"] > 0.01

    def test_of_less_than_two_samples_is_unknown(self):
        found = span_scores(sampled(filmed(photograph(), SIZE, 2, pan(0.1))), Span(1, 4), video_of(*SIZE))
        assert found["motion"] is None and found["camera.class"] is None
        assert found["picture.sharpness"] is None and found["held"] == 0

    def test_the_papers_is_kept_beside_it(self):
        found = scores_of(photograph(), pan(0.2), seconds=1.1)
        assert found["motion.paper"] == pytest.approx(0.1 * 16, rel=0.1)  # pixels of 16 in half a second


class TestCamera:
    @pytest.mark.parametrize(
        ("place", "word"),
        [
            (lambda t: (0j, 1 + 0j), "static"),
            (lambda t: (20 * t, 1 + 0j), "pan left"),
            (lambda t: (-20 * t, 1 + 0j), "pan right"),
            (lambda t: (20j * t, 1 + 0j), "tilt up"),
            (lambda t: (-20j * t, 1 + 0j), "tilt down"),
            (lambda t: (0j, cmath.exp(0.15 * t)), "zoom in"),
            (lambda t: (0j, cmath.exp(-0.15 * t)), "zoom out"),
            (lambda t: (0j, cmath.exp(0.2j * t)), "roll"),
            (lambda t: (complex(9 * math.sin(7.3 * t), 4 * math.cos(9.1 * t)), 1 + 0j), "shake"),
        ],
    )
    @pytest.mark.parametrize("name", ["coffee", "astronaut"])
    def test_has_a_word_for_it(self, name, place, word):
        assert scores_of(photograph(name), place)["camera.class"] == word

    def test_measures_zoom_and_roll(self):
        found = scores_of(photograph("astronaut"), lambda t: (0j, cmath.exp((0.1 + 0.1j) * t)))
        assert found["camera.zoom"] == pytest.approx(0.1, rel=0.25)
        assert found["camera.roll"] == pytest.approx(math.degrees(0.1), rel=0.25)

    def test_an_object_is_no_camera(self):
        still = seen_from(photograph(), SIZE)
        frames = [still.copy() for _ in range(30)]
        for number, frame in enumerate(frames):
            frame[60:120, 20 + 6 * number : 90 + 6 * number] = photograph("astronaut")[200:260, 300:370]
        found = span_scores(sampled(frames), ALL, video_of(*SIZE))
        assert found["camera.class"] == "object" and found["motion.object"] > 0.02


class TestPicture:
    def test_blur_lowers_sharpness(self):
        sharp = seen_from(photograph(), SIZE)
        values = [
            span_scores(sampled([cv2.GaussianBlur(sharp, (0, 0), sigma)] * 2), Span(0, 1), video_of(*SIZE))
            for sigma in (0.1, 1, 3)
        ]
        found = [each["picture.sharpness"] for each in values]
        assert found[0] > 2 * found[1] > 8 * found[2]

    def test_sharpness_is_the_variance_of_the_laplacian(self):
        luma = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
        part = luma[69:131, 69:131].astype(int)
        around = part[:-2, 1:-1] + part[2:, 1:-1] + part[1:-1, :-2] + part[1:-1, 2:] - 4 * part[1:-1, 1:-1]
        found = span_scores(sampled([luma]), Span(0, 0), video_of(200, 200))
        assert found["picture.sharpness"] == pytest.approx(around.var(), rel=1e-5)

    def test_blocks_show(self):
        plain = seen_from(photograph("chelsea"), SIZE)
        _, data = cv2.imencode(".jpg", plain, [cv2.IMWRITE_JPEG_QUALITY, 8])
        found = [
            span_scores(sampled([luma]), Span(0, 0), video_of(*SIZE))["picture.blockiness"]
            for luma in (plain, cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
        ]
        assert found[0] < 0.15 and found[1] > 0.4

    @pytest.mark.parametrize("rotation", [0, 90, 180, 270])
    def test_bars_are_where_the_upright_picture_has_them(self, rotation):
        upright = np.full((200, 400), 120, np.uint8)
        upright[:20], upright[190:], upright[:, :40], upright[:, 380:] = 4, 4, 4, 4
        stored = np.ascontiguousarray(np.rot90(upright, rotation // 90))  # counterclockwise, as players turn clockwise
        found = span_scores(sampled([stored]), Span(0, 0), video_of(400, 200, rotation))
        names = ("bar_top", "bar_right", "bar_bottom", "bar_left")
        assert [found[f"picture.{name}"] for name in names] == pytest.approx([0.1, 0.05, 0.05, 0.1], abs=0.006)

    def test_a_dark_scene_has_no_bars(self):
        dark, light = np.full((90, 160), 5, np.uint8), np.full((90, 160), 90, np.uint8)
        light[:9] = 5
        observed = sampled([dark] * 6 + [light] * 6)
        assert span_scores(observed, Span(0, 5), video_of(160, 90))["picture.bar_top"] is None
        assert span_scores(observed, Span(0, 11), video_of(160, 90))["picture.bar_top"] == pytest.approx(0.1)

    def test_light_is_in_levels_of_full_range(self):
        observed = sampled([np.full((90, 160), 100, np.uint8)])
        found = span_scores(observed, Span(0, 0), video_of(160, 90))
        assert found["picture.brightness"] == pytest.approx(100) and found["picture.contrast"] == pytest.approx(0)
        assert found["picture.saturation"] == found["picture.colourfulness"] == 0


class TestEveryFrame:
    def test_flicker_is_the_second_difference_of_brightness(self):
        frames = [np.full((90, 160), 100 + 10 * (k % 2), np.uint8) for k in range(20)]
        assert span_scores(sampled(frames), Span(0, 19), video_of(160, 90))["flicker"] == pytest.approx(20)
        fade = [np.full((90, 160), 60 + 2 * k, np.uint8) for k in range(20)]
        assert span_scores(sampled(fade), Span(0, 19), video_of(160, 90))["flicker"] == pytest.approx(0, abs=1e-3)

    def test_held_frames_are_counted(self):
        frames = list(filmed(photograph(), SIZE, 2, pan(0.3)))
        doubled = [frame for frame in frames for _ in range(2)]
        assert span_scores(sampled(doubled), Span(0, 39), video_of(*SIZE))["held"] == pytest.approx(20 / 39)


def test_samples_keep_to_the_clock_whatever_the_rate() -> None:
    for fps in (24.0, 29.97, 1.5, 60.0):
        observer = SampleObserver()
        for sight in sights((np.zeros((36, 64), np.uint8) for _ in range(round(6 * fps))), fps):
            observer.see(sight)
        times = observer.columns()["samples.time_s"]
        wanted = np.arange(len(times)) * max(0.5, 1 / fps)
        assert np.abs(times - wanted).max() <= 1 / fps + 1e-6


@pytest.mark.parametrize("shape", [(2, 2), (1, 300), (300, 1), (16, 16), (7, 4000), (4000, 7)])
def test_odd_sizes_pass(shape: tuple[int, int]) -> None:
    dice = np.random.default_rng(0)
    observed = sampled([dice.integers(0, 256, shape, np.uint8) for _ in range(12)])
    found = span_scores(observed, Span(0, 11), video_of(shape[1], shape[0]))
    assert math.isfinite(found["motion"]) and math.isfinite(found["picture.sharpness"])


def test_a_size_that_changes_within_the_video_passes() -> None:
    observed = sampled([np.zeros((90, 160), np.uint8)] * 8 + [np.zeros((160, 90), np.uint8)] * 8)
    assert span_scores(observed, Span(0, 15), video_of(160, 90))["motion"] == pytest.approx(0)


def test_frames_of_another_height_are_not_compared() -> None:
    ramps = [np.tile(np.arange(height, dtype=np.uint8)[:, None], (1, 64)) for height in (160, 160, 176, 176)]
    changes = sampled(ramps).columns["samples.change"]
    assert np.isnan(changes[[0, 2]]).all() and changes[[1, 3]].tolist() == [0, 0]


def test_no_frame_gives_empty_columns() -> None:
    columns = SampleObserver().columns()
    assert all(len(column) == 0 for column in columns.values()) and "samples.motion" in columns


def test_a_rate_without_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="per_second"):
        SampleObserver(SampleConfig(per_second=-1))


def test_a_real_clip_of_a_fixed_camera_shows_objects() -> None:
    observed = observe(Path("tests/data/media/codecs/nasa_13013_rotated.mp4"), [SampleObserver()])
    found = span_scores(observed, Span(0, observed.frames - 1), video_of(480, 270))
    assert 0 < found["motion"] < 0.2 and 5 < found["picture.colourfulness"] < 120

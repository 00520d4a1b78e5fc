from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stillmotion.checkpoints.load import locate
from stillmotion.curation.buckets import (
    FILE,
    EmpiricalBuckets,
    LinearBuckets,
    bucket_of,
    fit_buckets,
    load_buckets,
    save_buckets,
    speed_of,
)
from stillmotion.errors import MediaError, StillmotionError, UsageError
from stillmotion.media.video import write_video
from stillmotion.tasks.curated import BucketSettings, find_buckets
from stillmotion.training.toys import FULL_SCALE_SPEED, motion_bucket

from .sights import photograph, seen_from


class TestLinear:
    @pytest.mark.parametrize("speed", [0, 0.001, 0.1, 0.2499, 0.5, 3.0])
    def test_is_that_of_the_training_of_the_embedded_model(self, speed: float) -> None:
        embedded = load_buckets(locate("tiny", ()))
        assert embedded == LinearBuckets(full_scale=FULL_SCALE_SPEED)
        assert embedded.bucket(speed) == motion_bucket(speed)

    def test_every_bucket_comes_back(self) -> None:
        mapping = LinearBuckets()
        assert [mapping.bucket(mapping.speed(bucket)) for bucket in range(256)] == list(range(256))


class TestEmpirical:
    def test_each_bucket_gets_as_many_clips(self) -> None:
        speeds = np.random.default_rng(0).gamma(0.7, 0.2, 7_680)
        mapping = fit_buckets(speeds.tolist())
        counts = np.bincount([mapping.bucket(speed) for speed in speeds], minlength=256)
        # The two ends are half as wide as the others, for a bucket is a rounded share of 255.
        assert counts[1:-1].min() > 12 and counts[1:-1].max() < 50

    def test_never_falls_and_ends_at_both_ends(self) -> None:
        mapping = fit_buckets(np.random.default_rng(1).exponential(0.2, 40).tolist())
        buckets = [mapping.bucket(speed) for speed in np.linspace(0, 3, 500)]
        assert buckets == sorted(buckets) and buckets[0] == 0 and buckets[-1] == 255

    def test_is_the_cumulative_share_times_255(self) -> None:
        mapping = fit_buckets([k / 1000 for k in range(1001)])
        for speed in (0.0, 0.1234, 0.5, 0.999, 1.0):
            assert mapping.bucket(speed) == pytest.approx(255 * speed, abs=0.51)

    def test_every_bucket_comes_back(self) -> None:
        mapping = fit_buckets(np.random.default_rng(2).exponential(0.2, 5000).tolist())
        assert [mapping.bucket(mapping.speed(bucket)) for bucket in range(256)] == list(range(256))

    def test_equal_scores_share_the_middle_bucket(self) -> None:
        assert fit_buckets([0.2] * 7).bucket(0.2) == 127
        half = fit_buckets([0.0] * 50 + [1.0] * 50)
        assert (half.bucket(0.0), half.bucket(1.0)) == (63, 192)

    def test_unknown_scores_do_not_count(self) -> None:
        assert fit_buckets([None, 0.1, float("nan"), 0.3]).clips == 2

    def test_of_nothing_is_refused(self) -> None:
        with pytest.raises(UsageError, match="no clip has a motion score"):
            fit_buckets([None])

    def test_quantiles_that_fall_are_refused(self, tmp_path: Path) -> None:
        tree = {"buckets": {"kind": "empirical", "quantiles": [1.0] + [0.5] * 255, "clips": 3}}
        (tmp_path / FILE).write_text(json.dumps(tree))
        with pytest.raises(StillmotionError, match="quantiles"):
            load_buckets(tmp_path)


@pytest.mark.parametrize("mapping", [LinearBuckets(full_scale=0.25), fit_buckets([0.1, 0.2, 0.25])])
def test_a_mapping_is_saved_with_a_folder_and_read_again(
    tmp_path: Path, mapping: LinearBuckets | EmpiricalBuckets
) -> None:
    save_buckets(mapping, tmp_path)
    assert load_buckets(tmp_path) == mapping == load_buckets(tmp_path / FILE)
    assert (tmp_path / FILE).stat().st_size < 5000


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "\x00",
        '{"buckets": {"kind": "cubic"}}',
        '{"buckets": {"kind": "linear", "full_scale": 0}}',
        '{"buckets": {"kind": "linear", "full_scale": NaN}}',
        '{"buckets": {"kind": "empirical", "quantiles": [1, 2], "clips": 1}}',
        "[" * 100_000,
    ],
)
def test_a_broken_file_gets_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(StillmotionError, match=r"(expected|cannot be used)"):
        load_buckets(tmp_path)


def test_a_missing_file_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_buckets(tmp_path)


@pytest.mark.parametrize("speed", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("mapping", [LinearBuckets(), fit_buckets([0.1])])
def test_a_score_without_sense_is_refused(mapping: LinearBuckets | EmpiricalBuckets, speed: float) -> None:
    with pytest.raises(UsageError, match="motion score"):
        mapping.bucket(speed)
    with pytest.raises(UsageError, match="motion bucket"):
        mapping.speed(256)


def test_the_bucket_of_a_video(tmp_path: Path) -> None:
    canvas = photograph("astronaut")
    frames = np.stack([seen_from(canvas, (192, 108), complex(0.2 * 108 * k / 10)) for k in range(16)])
    path = tmp_path / "a video's name é.mp4"
    write_video(path, np.repeat(frames[..., None], 3, -1), 10)
    assert speed_of(path) == pytest.approx(0.2, rel=0.06)
    assert bucket_of(path) == pytest.approx(102, abs=6)
    assert bucket_of(path, LinearBuckets(full_scale=1.0)) == pytest.approx(51, abs=3)
    assert [found.bucket for found in find_buckets(BucketSettings(files=(path,)))] == [255]  # the embedded model's


@pytest.mark.parametrize("content", [b"", b"not a video" * 50])
def test_what_is_no_video_has_no_bucket(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(MediaError):
        bucket_of(tmp_path / "a.mp4")

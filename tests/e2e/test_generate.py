"""The command line as a person uses it: real files, and real processes where a process can make a difference.

The `command` fixture runs a command inside this process, which costs no second start.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillmotion.media.video import read_video

ROOT = Path(__file__).parents[2]
ROCKET = ROOT / "examples" / "rocket.jpg"
Command = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("--steps", "1", "--frames", "3", "--size", "64x64", "--dtype", "float32")


def stillmotion(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "stillmotion", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        timeout=300,
    )


def refused(result: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """The command ended with `code` and one sentence that says all of `said`."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    sentences = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(sentences) == 1, result.stderr
    for part in said:
        assert part in result.stderr, result.stderr


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_photograph_becomes_an_mp4(tmp_path: Path) -> None:
    result = stillmotion("generate", ROCKET, "-o", tmp_path / "out.mp4", *QUICK, "--play-fps", "10", "--fps", "6")
    assert result.returncode == 0, result.stderr
    assert "640x427 cropped to 64x64" in result.stdout
    assert "out.mp4" in result.stdout and "denoise" in result.stdout and "Try next" in result.stdout
    video = read_video(tmp_path / "out.mp4")
    assert video.frames.shape == (3, 64, 64, 3) and video.fps == 10
    assert leftovers(tmp_path) == ["out.mp4"]


@pytest.mark.slow
def test_a_folder_is_animated_in_sorted_order_with_seeds_that_count_up(command: Command, tmp_path: Path) -> None:
    images = tmp_path / "in"
    images.mkdir()
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (50, 40), (200, 30, 30)).save(images / name)
    (images / "notes.txt").write_text("not an image")
    result = command("generate", images, "-o", tmp_path / "out", *QUICK, "--seed", "5", "--count", "2")
    assert result.returncode == 0, result.stderr
    expected = ["a-seed5.mp4", "a-seed6.mp4", "b-seed7.mp4", "b-seed8.mp4"]
    assert leftovers(tmp_path / "out") == expected
    single = command("generate", images / "b.png", "-o", tmp_path / "alone.mp4", *QUICK, "--seed", "7")
    assert single.returncode == 0, single.stderr
    alone, among = read_video(tmp_path / "alone.mp4"), read_video(tmp_path / "out" / "b-seed7.mp4")
    assert np.array_equal(alone.frames, among.frames)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_a_fresh_process_and_another_seed_does_not(
    command: Command, tmp_path: Path
) -> None:
    digests = []
    for run, name, seed in ((command, "a", 3), (stillmotion, "b", 3), (command, "c", 4)):
        result = run("generate", ROCKET, "-o", tmp_path / f"{name}.mp4", *QUICK, "--seed", seed)
        assert result.returncode == 0, result.stderr
        digests.append(hashlib.sha256((tmp_path / f"{name}.mp4").read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [
        ("--sampler", "heun"),
        ("--sampler", "euler-ancestral"),
        ("--sampler", "dpmpp-2s-ancestral"),
        ("--sampler", "dpmpp-2m"),
        ("--sampler", "lms"),
        ("--guider", "triangle", "--guidance", "1:2"),
        ("--guider", "trapezoid"),
        ("--guider", "constant"),
        ("--guider", "none"),
        ("--sigmas", "ays"),
        ("--sigmas", "ddpm"),
        ("--sigmas", "700,20,1"),
        ("--decoder", "image"),
        ("--chunk", "2"),
        ("--dtype", "bfloat16"),
        ("--offload", "model"),
        ("--offload", "sequential"),
        ("--fit", "pad"),
        ("--fit", "stretch"),
        ("--motion", "200", "--noise-aug", "0.1"),
        ("--frames", "1"),
        ("--size", "72x56"),
    ],
)
def test_every_option_makes_a_video(option: tuple[str, ...], command: Command, tmp_path: Path) -> None:
    result = command("generate", ROCKET, "-o", tmp_path / "out.mp4", *QUICK, "--steps", "2", *option)
    assert result.returncode == 0, result.stderr
    assert len(read_video(tmp_path / "out.mp4").frames) == (1 if option[0] == "--frames" else 3)


def test_a_budget_s_plan_and_time_are_told_before_the_run(command: Command, tmp_path: Path) -> None:
    result = command("generate", ROCKET, "-o", tmp_path / "a.mp4", *QUICK, "--memory", "4GB")
    assert result.returncode == 0 and result.stdout.startswith(str(tmp_path / "a.mp4"))
    planned = r"memory: offload none, guidance's branches together, at most \d\.\d\d GB"
    told = planned + r"; expected time: about \d+(\.\d)? s\n"
    assert re.match(told, result.stderr)


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("generate", ROCKET, "--dry-run", "--motion", "180")
    assert result.returncode == 0, result.stderr
    for said in ("128x80", "motion_bucket: 180", "expected time", "3 model calls"):
        assert said in result.stdout
    assert leftovers(tmp_path) == []


def huge_png(path: Path) -> None:
    """144 megapixels of one bit in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    side = 12_000
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    body = zlib.compress(bytes(side * (1 + side // 8)), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def test_wrong_images_are_refused_in_one_sentence_and_leave_nothing(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(ROCKET.read_bytes()[:40_000])
    (tmp_path / "empty").mkdir()
    huge_png(tmp_path / "huge.png")
    refused(command("generate", tmp_path / "none.jpg", "-o", out), 2, "none.jpg", "does not exist")
    refused(command("generate", tmp_path / "empty", "-o", out), 2, "empty", "image")
    for name in ("text.png", "cut.jpg", "huge.png"):
        refused(command("generate", tmp_path / name, "-o", out, *QUICK), 1, name)
    assert not out.exists() or leftovers(out) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--frames", "0"), "frames"),
        (("--frames", "many"), "frames"),
        (("--steps", "-1"), "steps"),
        (("--guidance", "nan:2"), "guidance"),
        (("--guidance", "3"), "guidance"),
        (("--motion", "-5"), "motion"),
        (("--fps", "0"), "fps"),
        (("--size", "102x100"), "multiples of 4"),
        (("--size", "wide"), "size"),
        (("--sampler", "magic"), "sampler"),
        (("--sigmas", "1,2,3"), "falling"),
        (("--seed", "-1"), "seed"),
        (("--device", "abacus"), "abacus"),
        (("--model", "no-such-model"), "no-such-model"),
        (("--chunk", "0"), "chunk"),
        (("--play-fps", "nan"), "play_fps"),
        (("--play-fps", "0"), "play_fps"),
        (("--size", "800000x800000"), "8192"),
    ],
)
def test_wrong_settings_are_refused_with_code_2(
    options: tuple[str, str], said: str, command: Command, tmp_path: Path
) -> None:
    refused(command("generate", ROCKET, "-o", tmp_path / "out", *options), 2, said)
    assert leftovers(tmp_path) == []


def test_a_process_that_refuses_says_one_sentence_and_ends_with_code_2(tmp_path: Path) -> None:
    refused(stillmotion("generate", ROCKET, "-o", tmp_path / "out", "--frames", "0"), 2, "frames")
    assert leftovers(tmp_path) == []


def test_a_suffix_of_no_format_is_refused(command: Command, tmp_path: Path) -> None:
    refused(command("generate", ROCKET, "-o", tmp_path / "out.avi", *QUICK), 2, "out.avi", ".mp4", ".webm")
    assert leftovers(tmp_path) == []


def test_a_container_that_cannot_hold_the_codec_is_refused(command: Command, tmp_path: Path) -> None:
    options = ("-o", tmp_path / "out.webm", "--codec", "h264", *QUICK)
    refused(command("generate", ROCKET, *options), 2, "webm cannot hold the codec h264")
    assert leftovers(tmp_path) == []


def test_an_existing_file_is_never_overwritten(command: Command, tmp_path: Path) -> None:
    target = tmp_path / "mine.mp4"
    target.write_text("precious")
    refused(command("generate", ROCKET, "-o", target, *QUICK), 2, "mine.mp4", "exists")
    assert target.read_text() == "precious"


def test_one_bad_image_does_not_stop_the_others(command: Command, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    shutil.copy(ROCKET, tmp_path / "b.jpg")
    result = command("generate", tmp_path, "-o", tmp_path / "out", *QUICK)
    assert result.returncode == 1
    assert "a.png" in result.stderr and "b-seed1.mp4" in result.stdout
    assert leftovers(tmp_path / "out") == ["b-seed1.mp4"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unwritable_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    started = time.monotonic()
    # The checkout, too, may lie where another user cannot read.
    with tempfile.TemporaryDirectory() as open_folder:
        Path(open_folder).chmod(0o755)
        image = shutil.copy(ROCKET, open_folder)
        result = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, str(image), str(folder), str(tmp_path / "first")],
            capture_output=True,
            text=True,
            timeout=120,
        )
    refused(result, 1, "locked", "may not write")
    assert leftovers(folder) == [] and time.monotonic() - started < 60


# The interpreter may lie where another user cannot read, so a first run imports everything before becoming one.
_AS_NOBODY = """
import os, sys
import stillmotion.cli.generate
from stillmotion.cli import main
quick = ["generate", sys.argv[1], "--steps", "1", "--frames", "1", "--size", "64x64", "-o"]
assert main([*quick, sys.argv[3]]) == 0
os.seteuid(65534)
sys.exit(main([*quick, sys.argv[2]]))
"""


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    result = subprocess.run(
        [sys.executable, "-m", "stillmotion", "generate", ROCKET, "-o", tmp_path / "out", *QUICK],
        capture_output=True,
        text=True,
        preexec_fn=limited,
        timeout=120,
    )
    refused(result, 1, "cannot be written")
    assert leftovers(tmp_path / "out") == []


def heeding_ctrl_c() -> None:
    """In a child: a shell that starts the tests in its background has the signal ignored in all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


LONG = (sys.executable, "-m", "stillmotion", "generate", ROCKET, "--steps", "1000")


def wait_until_it_works(process: subprocess.Popen, preview: Path) -> None:
    """Until the preview of a first step stands where a placeholder stood, however slow the machine is."""
    placeholder = None
    for _ in range(2400):
        assert process.poll() is None, "a thousand steps ended before they could be stopped"
        seen = preview.read_bytes() if preview.exists() else None
        if placeholder is not None and seen != placeholder:
            return
        placeholder = seen
        time.sleep(0.1)
    process.kill()
    process.communicate()
    pytest.fail("no step was done within 240 s")


def test_ctrl_c_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*LONG, "-o", tmp_path / "out", "--preview", tmp_path / "now.gif"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeding_ctrl_c,
    )
    wait_until_it_works(process, tmp_path / "now.gif")
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Stopped" in errors and "Traceback" not in errors
    assert time.monotonic() - started < 15
    assert leftovers(tmp_path) == ["now.gif"]


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_nothing_under_a_final_name(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*LONG, "-o", tmp_path / "out", "--preview", tmp_path / "now.gif"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until_it_works(process, tmp_path / "now.gif")
    process.terminate()
    process.wait(timeout=30)
    assert [name for name in leftovers(tmp_path) if name.endswith(".mp4")] == []


@pytest.mark.slow
def test_memory_that_runs_out_is_one_sentence(tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))

    result = subprocess.run(
        [sys.executable, "-m", "stillmotion", "generate", ROCKET, "-o", tmp_path / "out", "--size", "5888x5888"],
        capture_output=True,
        text=True,
        preexec_fn=limited,
        timeout=280,
    )
    refused(result, 1, "memory ran out", "--size")


@pytest.mark.slow
def test_two_runs_into_one_folder_never_share_a_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stillmotion", "generate", str(ROCKET), "-o", str(tmp_path), *QUICK]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    for process in both:
        process.communicate()
    assert leftovers(tmp_path) == ["rocket-seed0-2.mp4", "rocket-seed0.mp4"]
    first, second = (read_video(tmp_path / name) for name in leftovers(tmp_path))
    assert np.array_equal(first.frames, second.frames)

"""Mutated videos: no crash, no untyped error, each within two seconds, and little memory.

Run as a program, `test_video_fuzz.py COUNT`, it prints what it measured as JSON.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from stillmotion.errors import StillmotionError
from stillmotion.media.document import read_document
from stillmotion.media.formats import FORMATS, Encoding
from stillmotion.media.video import read_video, write_video

STATUS = Path("/proc/self/status")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with a few changed, cut, doubled or overwritten by extreme numbers."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(made)) if rng.random() < 0.5 else rng.randrange(min(len(made), 512))
        choice = rng.randrange(5)
        if choice == 0:
            made[place] = rng.randrange(256)
        elif choice == 1:
            made[place] ^= 1 << rng.randrange(8)
        elif choice == 2:
            made[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
        elif choice == 3:
            del made[place : place + rng.randint(1, 64)]
        else:
            made[place:place] = made[place : place + rng.randint(1, 64)]
        if not made:
            return b"\0"
    return bytes(made)


def seeds(folder: Path) -> list[bytes]:
    """One small file of each format and codec, with a document in it."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    frames[:, :16] = 90
    made = []
    for each in FORMATS.values():
        for codec in each.codecs or (None,) if each.suffix else ():
            path = folder / f"{codec}{each.suffix}"
            write_video(path, frames, 7, Encoding(format=each.name, codec=codec), document='{"é": "日本"}' * 9)
            made.append(path.read_bytes())
    return made


def memory_mb(field: str) -> float:
    """A figure of this process as Linux knows it; elsewhere the most that it ever held is all there is."""
    if not STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) / 1000 for line in STATUS.read_text().splitlines() if line.startswith(field))


def measure(count: int) -> dict[str, float]:
    """Read `count` mutants. Anything but a StillmotionError ends this process."""
    with tempfile.TemporaryDirectory() as folder:
        originals = seeds(Path(folder))
        target, slowest, refused = Path(folder) / "mutant", 0.0, 0
        for original in originals:
            target.write_bytes(original)
            read_video(target)
        # Not the most that was ever held: the encoders of the seeds took far more than any reader.
        idle, grown = memory_mb("VmRSS"), 0.0
        for number in range(count):
            target.write_bytes(mutated(originals[number % len(originals)], random.Random(number)))
            if STATUS.exists():
                Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            start = time.process_time()
            for read in (read_document, read_video):
                try:
                    read(target)
                except StillmotionError as error:
                    refused += 1
                    assert str(error).endswith("."), error
                    assert "\n" not in str(error), error
            slowest = max(slowest, time.process_time() - start)
            grown = max(grown, memory_mb("VmHWM") - idle)
    return {"count": count, "refused": refused, "slowest_s": slowest, "grown_mb": grown}


def test_five_hundred_mutants() -> None:
    result = subprocess.run([sys.executable, __file__, "500"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    assert found["count"] == 500
    assert 100 <= found["refused"] <= 1000
    assert found["slowest_s"] <= 2
    assert found["grown_mb"] <= 500


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))

"""The predicted peak of a generation over the measured one, on the CPU: at least 0.9, at most 1.15.

    python benchmarks/memory.py [--only small|large|full] [--repeat 3] [--json benchmarks/results/memory.json]

Each case reads a model from a folder and makes a video of one step, in a process of its own. Measured is the peak of
its resident memory (VmHWM of Linux) less what it held before: Python, its libraries, and what torch imports when it
counts. Pages of a mapped file of weights count as memory while they are resident, since they do for everybody who
looks at a process. The C library's heap has other holes each time: `runs` holds all peaks, of which the median counts.
Small cases need a minute in all, large ones some, and those at full size up to 8 GB and some minutes each. A row is
recorded as soon as it is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from suite.networks import write_sparse_folder

from stillmotion.checkpoints.load import folder_networks, load, load_network
from stillmotion.config import parse, to_tree
from stillmotion.files import atomic_path
from stillmotion.models.heap import trim
from stillmotion.pipelines.image_to_video import VideoSettings, animate
from stillmotion.pipelines.ladder import Ladder
from stillmotion.pipelines.memory import Workload, predict
from stillmotion.placement import DTYPES, Placement, Stage
from stillmotion.presets import SVD, TINY, Preset

LOW, HIGH = 0.9, 1.15
MEGABYTE = 10**6
# Half the width of the released model: a quarter of its weights, and everything else alike.
MIDDLE = replace(
    SVD,
    name="middle",
    unet=replace(SVD.unet, channels=(160, 320, 640, 640)),
    autoencoder=replace(SVD.autoencoder, channels=(64, 128, 256, 256)),
    image_encoder=replace(SVD.image_encoder, width=640, mlp_width=2560, layers=16),
)
PRESETS = {"tiny": TINY, "middle": MIDDLE, "svd": SVD}
FRUGAL: dict[str, object] = {"branches": "in-turn", "decode_frames": 1}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One generation of a single step."""

    preset: str
    frames: int
    width: int
    height: int
    dtype: str = "float32"
    offload: str = "none"
    # Fields of Savings.
    savings: dict[str, object] = dataclasses.field(default_factory=dict)
    chunked: str = "exact"
    chunk: int | None = None

    @property
    def name(self) -> str:
        """As a row of the table shows it."""
        words = [self.preset, f"{self.frames} x {self.height} x {self.width}", self.dtype]
        words += [] if self.offload == "none" else [f"offload {self.offload}"]
        words += [f"{key} {value}" for key, value in self.savings.items()]
        words += [] if self.chunk is None else [f"chunk {self.chunk}"]
        return ", ".join([*words, *([] if self.chunked == "exact" else [self.chunked])])


CASES = {
    "small": (
        Case("tiny", 14, 256, 160),
        Case("tiny", 14, 256, 160, savings=FRUGAL),
        Case("tiny", 6, 256, 160, chunked="independent"),
        Case("tiny", 14, 256, 160, chunked="independent", chunk=2),
        Case("tiny", 14, 256, 160, "bfloat16"),
        Case("tiny", 14, 256, 160, "bfloat16", savings=FRUGAL),
    ),
    "large": (
        Case("tiny", 25, 512, 320),
        Case("tiny", 25, 512, 320, savings={"decode_frames": 1}),
        Case("tiny", 25, 512, 320, "bfloat16", offload="model"),
        Case("middle", 6, 256, 256),
        Case("middle", 6, 256, 256, savings=FRUGAL),
        Case("middle", 6, 256, 256, "bfloat16"),
        Case("middle", 14, 256, 256, "bfloat16", offload="model", savings=FRUGAL),
        Case("middle", 14, 256, 256, "bfloat16", offload="sequential", savings=FRUGAL),
    ),
    "full": (
        Case("svd", 14, 256, 256, "bfloat16"),
        Case("svd", 14, 256, 256, "bfloat16", savings=FRUGAL),
        Case("svd", 14, 256, 256, "bfloat16", offload="model", savings=FRUGAL),
        Case("svd", 14, 256, 256, "bfloat16", offload="sequential", savings=FRUGAL),
        Case("svd", 14, 256, 256, "float32", offload="sequential", savings=FRUGAL),
    ),
}


def main() -> int:
    """Run the cases, print a row each; 1 where a prediction is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--case", type=int)
    parser.add_argument("--repeat", type=int, default=1, help="processes a case, of which the median counts")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2)
    arguments = parser.parse_args()
    if arguments.child:
        case, folder = arguments.child
        sys.stdout.write(json.dumps(measure(Case(**json.loads(case)), Path(folder))))
        return 0
    chosen = [case for size, cases in CASES.items() if arguments.only in (None, size) for case in cases]
    chosen = chosen if arguments.case is None else [chosen[arguments.case]]
    rows = []
    for case in chosen:
        rows.append(run_case(case, arguments.repeat))
        if arguments.json is not None:
            record(arguments.json, rows[-1:])
    return int(not all(LOW <= row["ratio"] <= HIGH for row in rows))


def run_case(case: Case, repeat: int) -> dict[str, Any]:
    """A row of the table: predicted and measured bytes of one case, and their ratio."""
    with tempfile.TemporaryDirectory() as place:
        write_sparse_folder(Path(place), PRESETS[case.preset], case.dtype)
        command = [sys.executable, __file__, "--child", json.dumps(dataclasses.asdict(case)), place]
        runs = [
            json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            for _ in range(repeat)
        ]
    runs.sort(key=lambda run: run["measured"])
    found = runs[len(runs) // 2] | {"runs": [run["measured"] for run in runs]}
    row = {"case": case.name, "ratio": found["predicted"] / found["measured"]} | found
    stages = {name: f"{value / MEGABYTE:.0f}" for name, value in found["stages"].items()}
    planned = {name: f"{value / MEGABYTE:.0f}" for name, value in found["planned"].items()}
    peaks = [f"{found[name] / MEGABYTE:.0f} MB" for name in ("predicted", "measured")]
    sys.stdout.write(f"{row['ratio']:.3f}  {case.name}: predicted {peaks[0]} {planned}, measured {peaks[1]} {stages}\n")
    sys.stdout.flush()
    return row


def record(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows into a file of results; those of other cases stay in it."""
    old = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else []
    new = {row["case"] for row in rows}
    document = {
        "command": "python benchmarks/memory.py --json benchmarks/results/memory.json",
        "figure": "predicted peak over measured peak, must 0.9 to 1.15",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cases": [*(row for row in old if row["case"] not in new), *rows],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def workload(case: Case) -> Workload:
    """The video of a case."""
    settings = to_tree(VideoSettings(frames=case.frames, steps=1)) | {"chunked": case.chunked, "chunk": case.chunk}
    return Workload(PRESETS[case.preset], parse(VideoSettings, settings), case.width, case.height)


def placement(case: Case) -> Placement:
    """How a case runs."""
    return parse(Placement, {"device": "cpu", "dtype": case.dtype, "offload": case.offload, "savings": case.savings})


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """The peak of this process in bytes beyond what it held before, in all and by stage; and what was predicted."""
    request, where = workload(case), placement(case)
    plan = predict(request, where)  # torch imports some of itself when it counts, which every generation does
    trim()
    before = status_bytes("VmRSS")
    stages: dict[str, int] = {}
    stage = stage_of(request.preset, where, folder)
    ladder = Ladder(stage, request)

    def attempt(name: str, run: Callable[[], Any]) -> Any:
        def measured() -> Any:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            return run()

        result = ladder(name, measured)
        stages[name] = status_bytes("VmHWM") - before
        return result

    image = torch.zeros(1, 3, case.height, case.width)
    animate(stage, image, request.video, [0], attempt=attempt)
    assert not ladder.notes, ladder.notes
    planned = {peak.stage: peak.bytes for peak in plan.peaks}
    return {"predicted": plan.peak_bytes, "measured": max(stages.values()), "planned": planned, "stages": stages}


def stage_of(preset: Preset, where: Placement, folder: Path) -> Stage:
    """The model of a folder, ready to run as `generate` makes it."""
    if where.offload == "none":
        return Stage(load(folder, dtype=DTYPES[where.dtype]).components, where)
    with torch.device("meta"):
        components, _ = folder_networks(preset, None)
    return Stage(components, where, functools.partial(load_network, folder))


def status_bytes(name: str) -> int:
    """A figure of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    sys.exit(main())

"""The predicted peak of a generation over the measured one, on the CPU: at least 0.9, at most 1.15.

    python benchmarks/memory.py [--large]

Each case runs in a process of its own. Measured is the peak of its resident memory (VmHWM of Linux) less what the
imports took; weights count in both. The small cases need a minute, the large ones some.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stillmotion.config import parse, to_tree
from stillmotion.models.autoencoder import Autoencoder
from stillmotion.models.components import Components
from stillmotion.models.image_encoder import build_image_encoder
from stillmotion.models.unet import UNet
from stillmotion.pipelines.image_to_video import VideoSettings, animate
from stillmotion.pipelines.memory import Ladder, Workload, predict
from stillmotion.placement import DTYPES, Placement, Stage
from stillmotion.presets import SVD, TINY, Preset

LOW, HIGH = 0.9, 1.15
# Half the width of the released model: a quarter of its weights, and everything else alike.
MIDDLE = replace(
    SVD,
    name="middle",
    unet=replace(SVD.unet, channels=(160, 320, 640, 640)),
    autoencoder=replace(SVD.autoencoder, channels=(64, 128, 256, 256)),
    image_encoder=replace(SVD.image_encoder, width=640, mlp_width=2560, layers=16),
)
PRESETS = {"tiny": TINY, "middle": MIDDLE}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One generation of a single step."""

    preset: str
    frames: int
    width: int
    height: int
    dtype: str = "float32"
    # Fields of Savings.
    savings: dict[str, object] = dataclasses.field(default_factory=dict)
    chunked: str = "exact"


SMALL = (
    Case("tiny", 14, 256, 160),
    Case("tiny", 14, 256, 160, savings={"branches": "in-turn", "decode_frames": 1}),
    Case("tiny", 6, 256, 160, chunked="independent"),
    Case("tiny", 14, 256, 160, "bfloat16"),
)
LARGE = (
    Case("tiny", 25, 512, 320),
    Case("tiny", 25, 512, 320, savings={"decode_frames": 1}),
    Case("middle", 6, 256, 256),
    Case("middle", 6, 256, 256, savings={"branches": "in-turn", "decode_frames": 1}),
    Case("middle", 6, 256, 256, "bfloat16"),
)


def main() -> int:
    """Run every case, print a row each; 1 where a prediction is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        sys.stdout.write(json.dumps(measure(Case(**json.loads(arguments.child)))))
        return 0
    ratios = [run_case(case) for case in (*SMALL, *(LARGE if arguments.large else ()))]
    return int(not all(LOW <= ratio <= HIGH for ratio in ratios))


def run_case(case: Case) -> float:
    """Predicted over measured of one case, each side in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(dataclasses.asdict(case))]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    plan = predict(workload(case), placement(case))
    ratio = plan.peak_bytes / measured["peak"]
    stages = ", ".join(f"{peak.stage} {peak.bytes / 1e6:.0f}" for peak in plan.peaks)
    seen = ", ".join(f"{name} {value / 1e6:.0f}" for name, value in measured["stages"].items())
    sys.stdout.write(f"{case}\n  predicted {plan.peak_bytes / 1e6:.0f} MB ({stages}), ")
    sys.stdout.write(f"measured {measured['peak'] / 1e6:.0f} MB ({seen}), ratio {ratio:.3f}\n")
    sys.stdout.flush()
    return ratio


def workload(case: Case) -> Workload:
    """The video of a case."""
    video = parse(VideoSettings, to_tree(VideoSettings(frames=case.frames, steps=1)) | {"chunked": case.chunked})
    return Workload(PRESETS[case.preset], video, case.width, case.height)


def placement(case: Case) -> Placement:
    """How a case runs."""
    return parse(Placement, {"device": "cpu", "dtype": case.dtype, "savings": case.savings})


def measure(case: Case) -> dict[str, object]:
    """The peak of this process in bytes less that of the imports, in all and by stage."""
    before = status_bytes("VmHWM")
    load, where = workload(case), placement(case)
    stages: dict[str, int] = {}
    components = random_components(load.preset, DTYPES[case.dtype])

    stage = Stage(components, where)
    ladder = Ladder(stage, load)

    def attempt(name: str, run: Callable[[], Any]) -> Any:
        def measured() -> Any:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            return run()

        result = ladder(name, measured)
        stages[name] = status_bytes("VmHWM") - before
        return result

    image = torch.zeros(1, 3, case.height, case.width)
    animate(stage, image, load.video, [0], attempt=attempt)
    return {"peak": max(stages.values()), "stages": stages}


def random_components(preset: Preset, dtype: torch.dtype) -> Components:
    """Networks of a shape with small numbers; no copy of them exists meanwhile."""
    with torch.device("meta"):
        components = Components(
            UNet(preset.unet), Autoencoder(preset.autoencoder), build_image_encoder(preset.image_encoder)
        )
    for network in components.networks().values():
        network.to(dtype).to_empty(device="cpu").eval().requires_grad_(False)
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.normal_(0, 0.02) if tensor.is_floating_point() else tensor.copy_(torch.arange(tensor.numel())[None])
    return components


def status_bytes(name: str) -> int:
    """A figure of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    sys.exit(main())

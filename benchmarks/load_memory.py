"""Peak memory of loading the released SVD-XT shape, over the bytes of the networks that are kept: at most 1.1.

    python benchmarks/load_memory.py [folder for the sparse files]

The files are real in their headers and sparse behind them, so that they take no disk; the pages of a mapped sparse
file count as memory all the same. Each case runs in its own process, which after loading reads every page of every
weight: the peak is that of a model in use. Linux only: the peak is VmHWM of /proc.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stillmotion.checkpoints import diffusers, sgm
from stillmotion.checkpoints.load import load
from stillmotion.checkpoints.store import header, stored_bytes
from stillmotion.diffusers_api import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from stillmotion.models.autoencoder import Autoencoder
from stillmotion.models.components import Components
from stillmotion.models.image_encoder import build_image_encoder
from stillmotion.models.unet import UNet
from stillmotion.presets import SVD_XT

LIMIT = 1.1
DTYPES = {"as-stored": None, "float16": torch.float16, "float32": torch.float32}
# File, the function that loads it, precision. float32 is the default of the drop-in face.
CASES = (
    ("svd_xt.safetensors", "load", "as-stored"),
    ("svd_xt.safetensors", "load", "float16"),
    ("folder", "load", "as-stored"),
    ("folder", "load", "float32"),
    ("folder", "StableVideoDiffusionPipeline", "float32"),
    ("folder", "UNetSpatioTemporalConditionModel", "float32"),
    ("folder", "UNetSpatioTemporalConditionModel", "float16"),
)


def main() -> int:
    """Make the files, run every case in a process of its own, print the ratios; 1 where one is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--child", nargs=3)
    arguments = parser.parse_args()
    if arguments.child:
        sys.stdout.write(json.dumps(measure(*arguments.child)))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        make_files(Path(place))
        ratios = [run_case(Path(place) / name, loader, dtype) for name, loader, dtype in CASES]
    return int(max(ratios) > LIMIT)


def run_case(path: Path, loader: str, dtype: str) -> float:
    """The ratio of one case, measured in a child process."""
    command = [sys.executable, __file__, "--child", str(path), loader, dtype]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ratio = found["peak"] / found["kept"]
    gigabytes = {name: value / 1e9 for name, value in found.items()}
    sizes = f"peak {gigabytes['peak']:.3f} GB, kept {gigabytes['kept']:.3f} GB, ratio {ratio:.3f}"
    sys.stdout.write(f"{path.name} {loader} {dtype}: {sizes}\n")
    return ratio


def measure(path: str, loader: str, dtype: str) -> dict[str, int]:
    """Bytes at the peak, less those of the imports, and bytes of the weights kept."""
    before = peak_bytes()
    variant = "fp16" if Path(path).is_dir() else None
    if loader == "load":
        networks = [*load(path, dtype=DTYPES[dtype], variant=variant).components.networks().values()]
    elif loader == "StableVideoDiffusionPipeline":
        pipe = StableVideoDiffusionPipeline.from_pretrained(path, dtype=DTYPES[dtype], variant=variant)
        networks = [pipe.unet, pipe.vae, pipe.image_encoder]
    else:
        chosen = {"subfolder": "unet", "variant": variant, "dtype": DTYPES[dtype]}
        networks = [UNetSpatioTemporalConditionModel.from_pretrained(path, **chosen)]
    weights = {value.data_ptr(): value for network in networks for value in network.state_dict().values()}
    for value in weights.values():
        value.flatten()[:: 4096 // value.element_size()].sum()
    return {"peak": peak_bytes() - before, "kept": sum(value.nbytes for value in weights.values())}


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def make_files(place: Path) -> None:
    """A single file in float32 and a folder in float16, both at the full shape."""
    with torch.device("meta"):
        components = Components(
            UNet(SVD_XT.unet), Autoencoder(SVD_XT.autoencoder), build_image_encoder(SVD_XT.image_encoder)
        )
    write_sparse(place / "svd_xt.safetensors", sgm.export(components, SVD_XT.image_encoder), None)
    documents = {
        "unet": diffusers.unet_document(SVD_XT.unet),
        "vae": diffusers.autoencoder_document(SVD_XT.autoencoder),
        "image_encoder": diffusers.image_encoder_document(SVD_XT.image_encoder, torch.float16),
    }
    networks = {"unet": components.unet, "vae": components.autoencoder, "image_encoder": components.image_encoder}
    for part, document in documents.items():
        inside = place / "folder" / part
        inside.mkdir(parents=True)
        (inside / "config.json").write_text(json.dumps(document))
        tensors = diffusers.RULES.export(networks[part].state_dict())
        write_sparse(inside / f"{diffusers.WEIGHTS[part]}.fp16.safetensors", tensors, torch.float16)


def write_sparse(path: Path, tensors: Mapping[str, Sequence[Tensor]], dtype: torch.dtype | None) -> None:
    """A safetensors file of zeros that takes no disk."""
    first = header(tensors, dtype)
    with path.open("wb") as file:
        file.write(first)
        file.truncate(len(first) + sum(stored_bytes(parts, dtype) for parts in tensors.values()))


if __name__ == "__main__":
    sys.exit(main())

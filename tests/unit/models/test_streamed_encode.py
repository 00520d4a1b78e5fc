"""Encoding in bands gives the latents of encoding at once."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from stillmotion.errors import UsageError
from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.streamable import can_stream_encoder
from stillmotion.models.streamed_encode import encode_peak_bytes, encode_streamed

CFG = AutoencoderConfig(channels=(32, 64, 64), layers=1, sample_size=16)


def autoencoder(cfg: AutoencoderConfig = CFG, dtype: torch.dtype = torch.float64) -> Autoencoder:
    torch.manual_seed(0)
    made = Autoencoder(cfg).eval().to(dtype)
    for parameter in made.parameters():  # fresh biases and gains are alike everywhere
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize(
    "how",
    [{}, {"rows_at_once": 1}, {"rows_at_once": 6}, {"rows_at_once": 1000}, {"park": "disk"}, {"park": "host"}],
    ids=str,
)
@pytest.mark.parametrize("size", [(16, 16), (44, 20), (4, 4)], ids=str)
def test_bands_change_nothing(how: dict[str, Any], size: tuple[int, int]) -> None:
    network = autoencoder()
    frames = torch.rand(2, 2, 3, *size, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        whole = network.encode(frames)
    found = encode_streamed(network, frames, **how)
    for made, known in ((found.mean, whole.mean), (found.logvar, whole.logvar)):
        torch.testing.assert_close(made, known, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.usefixtures("either_code")
def test_other_precisions_differ_by_rounding(dtype: torch.dtype, most: float) -> None:
    exact = autoencoder(dataclasses.replace(CFG, channels=(128, 128)))
    frames = torch.rand(1, 1, 3, 64, 64, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        truth = exact.encode(frames).mean
        network = exact.to(dtype)
        plain = network.encode(frames.to(dtype)).mean
    found = encode_streamed(network, frames.to(dtype)).mean
    errors = [(made - truth).square().mean().sqrt() / truth.std() for made in (found, plain)]
    assert errors[0] < most and errors[0] <= 3 * errors[1]


def test_what_is_not_ours_is_not_taken_apart() -> None:
    network = autoencoder()
    assert can_stream_encoder(network)
    network.encoder.conv_in.register_forward_hook(lambda *_: None)
    assert not can_stream_encoder(network)
    replaced = autoencoder()
    replaced.quant_conv = nn.Sequential(replaced.quant_conv)  # type: ignore[assignment]
    assert not can_stream_encoder(replaced)


def test_the_peak_is_counted() -> None:
    def peak(**how: Any) -> int:
        return encode_peak_bytes(AutoencoderConfig(), (576, 1024), torch.float32, torch.device("cpu"), **how)

    # Two activations of 128 channels at least, and neither of them on disk.
    assert 2 * 128 * 576 * 1024 * 4 < peak() < 4 * 128 * 576 * 1024 * 4
    assert peak(park="disk") < 0.7 * peak()
    assert peak(rows_at_once=8, park="disk") < peak(park="disk")


@pytest.mark.parametrize("rows", [0, -1])
def test_rows_that_cannot_be_are_refused(rows: int) -> None:
    with pytest.raises(UsageError, match=f"rows_at_once is {rows}; expected at least 1"):
        encode_streamed(autoencoder(), torch.zeros(1, 1, 3, 16, 16, dtype=torch.float64), rows_at_once=rows)


PEAK = """
import torch
from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.streamed_encode import encode_streamed

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

torch.set_num_threads(1)
network = Autoencoder(AutoencoderConfig(channels=(64,) * 5, layers=1)).eval()
encode_streamed(network, torch.zeros(1, 1, 3, 64, 64))
image = torch.zeros(1, 1, 3, 1024, 1024)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
encode_streamed(network, image)
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_the_peak_is_as_counted() -> None:
    # Five levels as wide as the first, where halving holds the most.
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, check=True, text=True)
    cfg = AutoencoderConfig(channels=(64,) * 5, layers=1)
    counted = encode_peak_bytes(cfg, (1024, 1024), torch.float32, torch.device("cpu"))
    assert 0.85 * counted < int(run.stdout) < 1.1 * counted


def test_a_full_disk_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stillmotion.models.parked._fill", full)
    with pytest.raises(UsageError, match="could not be parked"):
        encode_streamed(autoencoder(), torch.zeros(1, 1, 3, 16, 16, dtype=torch.float64), park="disk")

"""Decoding in bounded memory gives the frames of decoding all at once."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillmotion.errors import Cancelled, UsageError
from stillmotion.events import Progress
from stillmotion.models import bands, parked, streamed_steps
from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.streamable import can_stream
from stillmotion.models.streaming import decode_peak_bytes, decode_streamed
from stillmotion.nn.winograd import WinogradConvolution
from stillmotion.placement import layer_by_layer, visiting

THREE_LEVELS = AutoencoderConfig(channels=(32, 64, 64), layers=1)


@pytest.fixture(params=["temporal", "image"])
def autoencoder(request: pytest.FixtureRequest, redraw: Callable[..., None]) -> Autoencoder:
    made = Autoencoder(AutoencoderConfig(channels=(32, 64), layers=2, decoder=request.param))
    redraw(made)
    return made.eval().requires_grad_(False)


@pytest.fixture
def temporal(redraw: Callable[..., None]) -> Autoencoder:
    made = Autoencoder(THREE_LEVELS)
    redraw(made)
    return made.eval().requires_grad_(False)


@pytest.fixture
def in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache so small that frames are cut into bands, and columns into several spans."""
    monkeypatch.setattr(streamed_steps, "CACHE_BYTES", 60_000)


def latents(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).to(dtype)


def distance(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return ((found - expected).abs().max() / expected.std()).item()


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 3, 5), (2, 1, 2), (4, 5, 3)])
def test_in_float64_the_frames_are_those_of_decode(
    autoencoder: Autoencoder, frames: int, height: int, width: int
) -> None:
    z = latents(2, frames, 4, height, width, dtype=torch.float64)
    expected = autoencoder.double().decode(z)
    for chunk in (1, 3, frames, 100):
        assert distance(decode_streamed(autoencoder, z, chunk), expected) < 1e-12


@pytest.mark.usefixtures("in_bands")
def test_bands_and_columns_join_without_a_trace(autoencoder: Autoencoder) -> None:
    z = latents(1, 3, 4, 18, 11, dtype=torch.float64)
    expected = autoencoder.double().decode(z)
    for rows in (None, 7, 1000):
        assert distance(decode_streamed(autoencoder, z, 2, rows_at_once=rows), expected) < 1e-12


def test_in_float32_every_chunk_gives_the_same_bits(temporal: Autoencoder) -> None:
    z = latents(2, 5, 4, 6, 4)
    expected = temporal.decode(z)
    found = [decode_streamed(temporal, z, chunk) for chunk in (1, 2, 3, 5)]
    assert distance(found[0], expected) < 2e-5
    assert all(torch.equal(found[0], each) for each in found)


@pytest.mark.usefixtures("either_code")
def test_in_bfloat16_it_is_as_near_to_float64_as_decode(temporal: Autoencoder) -> None:
    z = latents(1, 4, 4, 6, 5)
    exact = temporal.double().decode(z.double())
    temporal.to(torch.bfloat16)
    plain, streamed = temporal.decode(z.bfloat16()), decode_streamed(temporal, z.bfloat16(), 1)
    off = [(each.double() - exact).square().mean().sqrt() for each in (streamed, plain)]
    assert off[0] < 1.2 * off[1]


def test_bands_of_one_purpose_lie_in_one_place() -> None:
    bands = parked.Bands(parked.Room("device", torch.device("cpu"), torch.float32))
    large, other = bands.take("before", (2, 4, 5, 8)), bands.take("made", (2, 4, 5, 8))
    small = bands.take("before", (1, 3, 5, 8))
    assert small.shape == (1, 3, 5, 8) and small.data_ptr() == large.data_ptr() != other.data_ptr()


def test_in_bfloat16_our_own_code_does_the_work(temporal: Autoencoder, own_code_asked: set[str]) -> None:
    decode_streamed(temporal.to(torch.bfloat16), latents(1, 4, 4, 6, 5).bfloat16(), 4)
    assert own_code_asked == {"pack", "convolve", "convolve_in_sums", "moments", "apply"}


@pytest.fixture
def wide(redraw: Callable[..., None]) -> Autoencoder:
    """Channels and frames so many that every convolution takes its way with the fewest products."""
    made = Autoencoder(AutoencoderConfig(channels=(128, 256), layers=1))
    redraw(made)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3.0), (torch.bfloat16, 1.2)])
@pytest.mark.parametrize("frames", [4, 3])
@pytest.mark.usefixtures("either_code")
def test_with_the_fewest_products_it_stays_near_to_float64(
    wide: Autoencoder, dtype: torch.dtype, bound: float, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[bool] = []
    before = WinogradConvolution.__init__

    def noted(self: WinogradConvolution, *given: Any, **how: Any) -> None:
        kinds.append(True)
        before(self, *given, **how)

    monkeypatch.setattr(bands.WinogradConvolution, "__init__", noted)
    monkeypatch.setattr(bands, "LEAST_PIXELS", 1)
    z = latents(1, frames, 4, 6, 5, dtype=dtype)
    wide.to(dtype)
    plain, found = wide.decode(z), [decode_streamed(wide, z, chunk) for chunk in (1, 2, frames)]
    exact = wide.double().decode(z.double())
    off = [(each.double() - exact).square().mean().sqrt() for each in (found[0], plain)]
    assert off[0] < bound * off[1]
    assert all(torch.equal(found[0], each) for each in found)
    assert kinds or not torch.backends.mkldnn.is_available()


def test_a_large_mean_costs_no_digits(temporal: Autoencoder) -> None:
    temporal.decoder.conv_in.bias.fill_(300.0)
    z = latents(1, 3, 4, 4, 4)
    exact = temporal.double().decode(z.double())
    plain = temporal.float().decode(z)
    streamed = decode_streamed(temporal, z, 1)
    assert (streamed.double() - exact).abs().max() < 3 * (plain.double() - exact).abs().max()


def test_videos_of_a_batch_do_not_mix(temporal: Autoencoder) -> None:
    z = latents(2, 3, 4, 3, 4)
    together = decode_streamed(temporal, z, 2)
    for index in range(2):
        assert torch.equal(together[index : index + 1], decode_streamed(temporal, z[index : index + 1], 2))


@pytest.mark.parametrize("park", ["host", "disk"])
@pytest.mark.parametrize("rows", [None, 3])
def test_where_it_is_parked_changes_nothing(
    temporal: Autoencoder, park: parked.Park, rows: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked.tempfile, "tempdir", str(tmp_path))
    z = latents(1, 3, 4, 5, 4)
    expected = decode_streamed(temporal, z, 1, rows_at_once=rows)
    assert torch.equal(decode_streamed(temporal, z, 1, rows_at_once=rows, park=park), expected)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_leaves_nothing(
    temporal: Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parked.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(parked.os, "write", full)
    with pytest.raises(UsageError, match=r"could not be parked in .*No space left"):
        decode_streamed(temporal, latents(1, 2, 4, 2, 2), 1, park="disk")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said(
    temporal: Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked.tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="could not be parked"):
        decode_streamed(temporal, latents(1, 2, 4, 2, 2), 1, park="disk")


@pytest.mark.parametrize("changes", [{"frames_at_once": 0}, {"frames_at_once": -1}, {"rows_at_once": 0}])
def test_impossible_sizes_are_refused(temporal: Autoencoder, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected at least 1"):
        decode_streamed(temporal, latents(1, 2, 4, 2, 2), **({"frames_at_once": 1} | changes))


def test_progress_counts_frames_and_can_stop(temporal: Autoencoder) -> None:
    events: list[Progress] = []
    decode_streamed(temporal, latents(2, 3, 4, 2, 3), 1, watch=events.append)
    assert events == [Progress("decode", done, 6) for done in range(7)]

    def stop(event: Progress) -> None:
        if event.done == 2:
            raise Cancelled("enough.")

    with pytest.raises(Cancelled):
        decode_streamed(temporal, latents(2, 3, 4, 2, 3), 1, watch=stop)


@pytest.mark.parametrize("offloaded", [visiting, layer_by_layer])
def test_offloaded_weights_are_fetched(
    temporal: Autoencoder, offloaded: Callable[..., contextlib.AbstractContextManager[None]]
) -> None:
    z = latents(1, 3, 4, 3, 4)
    expected = decode_streamed(temporal, z, 1)
    with offloaded(temporal, torch.device("cpu")):
        assert torch.equal(decode_streamed(temporal, z, 1), expected)


def test_the_weights_stay_as_they_are(temporal: Autoencoder) -> None:
    before = {name: tensor.clone() for name, tensor in temporal.state_dict().items()}
    z = latents(1, 2, 4, 3, 3)
    given = z.clone()
    decode_streamed(temporal, z, 1)
    assert torch.equal(z, given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in temporal.state_dict().items())


MEASURED = """
import sys, torch
from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.streaming import decode_peak_bytes, decode_streamed

def resident(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024

torch.set_num_threads(1)
cfg = AutoencoderConfig(channels=(64, 128), layers=1)
autoencoder, latents, chunk = Autoencoder(cfg).requires_grad_(False), torch.randn(1, 8, 4, 120, 128), int(sys.argv[1])
decode_streamed(autoencoder, latents[:, :1, :, :4, :4], 1)
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
decode_streamed(autoencoder, latents, chunk)
predicted = decode_peak_bytes(cfg, (8, 120, 128), chunk, torch.float32, torch.device("cpu"))
print(predicted / (resident("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's own account of memory")
@pytest.mark.parametrize("chunk", [1, 8])
def test_the_predicted_peak_is_the_measured_one(chunk: int) -> None:
    ran = subprocess.run([sys.executable, "-c", MEASURED, str(chunk)], capture_output=True, text=True, check=True)
    # What the heap keeps between live blocks comes on top: `pipelines.memory` counts it, once a process.
    assert 0.65 < float(ran.stdout) < 1.2


def test_the_predicted_peak_grows_with_what_is_kept() -> None:
    def peak(frames: int, chunk: int, **changes: Any) -> int:
        cfg, device = AutoencoderConfig(), torch.device("cpu")
        return decode_peak_bytes(cfg, (frames, 40, 72), chunk, torch.float32, device, **changes)

    parked_bytes = 25 * 128 * 320 * 576 * 4
    assert parked_bytes < peak(25, 1) < 1.35 * parked_bytes
    assert peak(25, 25) > peak(25, 1) + 0.8 * parked_bytes
    assert peak(25, 1, park="disk") < 0.3 * parked_bytes
    assert peak(25, 1, park="disk", rows_at_once=8) < peak(25, 1, park="disk")
    assert peak(50, 1) > 1.8 * peak(25, 1) - parked_bytes / 4


class Replaced(nn.Conv2d):
    """Somebody's own layer."""


def _hooked(autoencoder: Autoencoder) -> None:
    autoencoder.decoder.mid_block.register_forward_hook(lambda module, inputs, output: output)


def _replaced(autoencoder: Autoencoder) -> None:
    autoencoder.decoder.conv_out = Replaced(32, 3, 3, padding=1)


def _patched(autoencoder: Autoencoder) -> None:
    conv = autoencoder.decoder.conv_in
    conv.forward = lambda x: x  # type: ignore[method-assign]


def _mixed(autoencoder: Autoencoder) -> None:
    autoencoder.decoder.conv_in.to(torch.bfloat16)


def _half(autoencoder: Autoencoder) -> None:
    autoencoder.half()


def _compiled(autoencoder: Autoencoder) -> None:
    autoencoder.compile(backend="eager")


@pytest.mark.parametrize("change", [_hooked, _replaced, _patched, _mixed, _half, _compiled])
def test_what_somebody_changed_is_left_to_be_called(
    temporal: Autoencoder, change: Callable[[Autoencoder], None]
) -> None:
    assert can_stream(temporal)
    change(temporal)
    assert not can_stream(temporal)


@pytest.mark.parametrize(("height", "rows"), [(7, 4), (7, 3), (8, 2), (9, 100), (1, 8), (5, 1)])
def test_bands_begin_where_rows_pair_up(height: int, rows: int) -> None:
    found = list(bands._bands(height, rows))
    assert [row for top, bottom in found for row in range(top, bottom)] == list(range(height))
    assert rows == 1 or all(top % 2 == 0 and bottom - top <= rows for top, bottom in found)

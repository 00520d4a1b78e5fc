"""Compiled networks: the same estimates, one compilation for all sizes and images, and recordings that are repeated."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stillmotion import placement
from stillmotion.conditioning import Condition
from stillmotion.kernels import operations
from stillmotion.models.autoencoder import Autoencoder, AutoencoderConfig
from stillmotion.models.compiled import Compiled, Replayed, pays
from stillmotion.models.components import Components
from stillmotion.models.prepared import prepared
from stillmotion.models.streaming import decode_streamed
from stillmotion.models.unet import UNet, UNetConfig
from stillmotion.nn.regions import Regions
from stillmotion.pipelines.image_to_video import VideoSettings, animate, guided_denoiser
from stillmotion.placement import Placement, Stage, chosen_compile

ONE_LEVEL = UNetConfig(
    channels=(32,), has_attention=(True,), heads=(2,), layers=(1,), transformer_depth=(1,), context_width=(24,),
    number_width=16,
)  # fmt: skip
CPU = torch.device("cpu")
Latents = tuple[Tensor, Tensor, Tensor, Tensor]


class Counting:
    """A backend that compiles nothing and counts how often it was asked to."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


COUNTING = Counting()


@pytest.fixture(scope="module", autouse=True)
def compiled_code() -> Iterator[None]:
    """What one test has compiled the next may use; other files find none of it."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test writes into the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def unet(redraw: Callable[..., None]) -> UNet:
    """One level with every kind of block, in float64."""
    network = UNet(ONE_LEVEL)
    redraw(network)
    return network.eval().requires_grad_(False).double()


def latents(*shape: int, tokens: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64) -> Latents:
    """What the network is called with: `shape` is videos, frames, height, width."""
    generator = torch.Generator().manual_seed(seed)
    videos, frames, height, width = shape
    x = torch.randn(videos, frames, 8, height, width, generator=generator)
    c_noise = torch.randn(1, generator=generator).expand(videos)
    context = torch.randn(videos, tokens, 24, generator=generator)
    numbers = torch.randn(1, 3, generator=generator).expand(videos, -1)
    return x.to(dtype), c_noise.to(dtype), context.to(dtype), numbers.to(dtype)


def step(regions: Regions, unet: UNet, given: Latents) -> Tensor:
    """One estimate of the prepared network, or of the plain one where several tokens keep it from being prepared."""
    x, c_noise, context, numbers = given
    with torch.inference_mode():
        return regions.around(
            lambda _: made(x, c_noise) if (made := prepared(unet, context, numbers)) else unet(*given)
        )


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_another_image_frame_count_and_size_need_no_compilation(unet: UNet, tokens: int) -> None:
    before, seen = COUNTING.graphs, []
    for seed, shape in enumerate([(2, 3, 6, 4), (2, 3, 6, 4), (2, 4, 6, 4), (2, 3, 8, 12), (2, 5, 3, 7)]):
        given = latents(*shape, tokens=tokens, seed=seed)
        regions = Regions(COUNTING)  # as for a second model of the same process
        made = step(regions, unet, given)
        expected = unet(*given)
        assert (made - expected).abs().max() < 1e-12 * expected.std() and regions.failure is None
        seen.append(COUNTING.graphs - before)
    assert 0 < seen[0] <= 12 and set(seen) == {seen[0]}


@pytest.mark.slow
def test_half_precision_is_as_near_as_it_is_plainly(unet: UNet) -> None:
    given = latents(2, 3, 6, 4)
    expected, rounded = unet(*given), [value.bfloat16() for value in given]
    unet.bfloat16()
    plain = (unet(*rounded).double() - expected).abs().mean()
    made = (step(Regions(COUNTING), unet, latents(2, 3, 6, 4, dtype=torch.bfloat16)).double() - expected).abs().mean()
    assert made < 1.5 * plain


@pytest.mark.slow
def test_compiled_regions_never_ask_for_our_own_code(unet: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by torch's compiler, the question would be told to the user as a warning."""
    monkeypatch.setattr(operations, "takes", lambda x: pytest.fail("was asked"))
    assert step(Regions(COUNTING), unet.bfloat16(), latents(2, 3, 6, 4, dtype=torch.bfloat16)).isfinite().all()


def test_without_its_compiler_the_denoiser_gives_its_own_bytes(unet: UNet, caplog: pytest.LogCaptureFixture) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        raise ValueError("no kernel today")

    unet.float()
    condition = Condition(torch.randn(1, 1, 24), torch.randn(1, 1, 4, 6, 4), torch.ones(1, 3))
    x, scale = torch.randn(1, 3, 4, 6, 4), torch.tensor([1.0, 2.0, 3.0])
    tried = Compiled(CPU, broken)
    with torch.inference_mode(), caplog.at_level(logging.WARNING, logger="stillmotion"):
        expected = guided_denoiser(unet, condition, scale)(x, torch.tensor(2.0))
        denoise = guided_denoiser(unet, condition, scale, compiled=tried)
        assert torch.equal(denoise(x, torch.tensor(2.0)), expected)
        assert torch.equal(denoise(x, torch.tensor(2.0)), expected)
    assert [r.name for r in caplog.records if r.levelno == logging.WARNING] == ["stillmotion.nn.regions"]
    assert tried.failure is not None and "no kernel today" in tried.failure


def test_a_hooked_network_is_called_as_it_is(unet: UNet) -> None:
    seen: list[Any] = []
    unet.float().mid_block.register_forward_pre_hook(lambda *_: seen.append(1))
    unet.up_blocks[0].resnets[0].register_forward_hook(lambda *_: seen.append(2))
    condition = Condition(torch.randn(1, 1, 24), torch.randn(1, 1, 4, 6, 4), torch.ones(1, 3))
    before = COUNTING.graphs
    with torch.inference_mode():
        denoise = guided_denoiser(unet, condition, torch.full((3,), 2.0), compiled=Compiled(CPU, COUNTING))
        denoise(torch.randn(1, 3, 4, 6, 4), torch.tensor(2.0))
    assert seen and COUNTING.graphs == before


def test_decoding_is_compiled_once_for_all_sizes(redraw: Callable[..., None]) -> None:
    autoencoder = Autoencoder(AutoencoderConfig(channels=(32, 32), layers=1))
    redraw(autoencoder)
    autoencoder.eval().requires_grad_(False).double()
    before, seen = COUNTING.graphs, []
    for frames, height, width, chunk in ((4, 8, 8, 4), (4, 8, 8, 2), (3, 16, 8, 2), (5, 7, 9, 2)):
        x = torch.randn(1, frames, 4, height, width, dtype=torch.float64)
        made = Regions(COUNTING).around(lambda _, x=x, chunk=chunk: decode_streamed(autoencoder, x, chunk))
        expected = autoencoder.decode(x)
        assert (made - expected).abs().max() < 1e-12 * expected.std()
        seen.append(COUNTING.graphs - before)
    assert 0 < seen[0] <= 6 and set(seen) == {seen[0]}


@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_a_stage_compiles_what_its_placement_asks_for(
    offload: placement.Offload, tiny_components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Compiled] = []

    def kept(device: torch.device) -> Compiled:
        made.append(Compiled(device, "eager"))
        return made[-1]

    monkeypatch.setattr(placement, "Compiled", kept)
    monkeypatch.setattr(Compiled, "around", lambda self, run: run(False))  # whole networks are compiled elsewhere
    wished = Placement(device="cpu", dtype="float32", compile="region", offload=offload)
    stage = Stage(tiny_components, wished)
    image, settings = torch.zeros(1, 3, 16, 16), VideoSettings(frames=2, steps=1)
    frames = animate(stage, image, settings, [0])
    assert len(made) == (0 if offload == "sequential" else 1)
    assert stage.runs_compiled == ("off" if offload == "sequential" else "region")
    plain = Stage(tiny_components, dataclasses.replace(wished, compile="off"))
    assert torch.equal(frames, animate(plain, image, settings, [0]))


def test_a_stage_says_what_came_of_the_wish(tiny_components: Components, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        raise ValueError("no kernel today")

    monkeypatch.setattr(placement, "Compiled", functools.partial(Compiled, backend=broken))
    stage = Stage(tiny_components, Placement(device="cpu", dtype="float32", compile="region"))
    assert stage.runs_compiled == "region"
    animate(stage, torch.zeros(1, 3, 16, 16), VideoSettings(frames=2, steps=1), [0])
    assert stage.runs_compiled == "off"


def test_auto_compiles_long_runs_on_cuda_alone() -> None:
    cuda = Placement(device="cuda:1", dtype="bfloat16")
    assert [chosen_compile("auto", cuda, calls) for calls in (1, 80, 81)] == ["off", "off", "region"]
    assert chosen_compile("auto", Placement(device="cuda", dtype="bfloat16", offload="sequential"), 1000) == "off"
    assert chosen_compile("auto", Placement(device="cpu", dtype="float32"), 1000) == "off"
    assert (
        chosen_compile("off", cuda, 1000) == "off" and chosen_compile("region", Placement(device="cpu"), 1) == "region"
    )


class Tape:
    """A recorder that does the work again by calling it, as a graph would on the same tensors."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.recorded = self.repeated = 0
        self._error = error

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        if self._error is not None:
            raise self._error
        made = run()

        def again() -> None:
            self.repeated += 1
            made.copy_(run())

        return again, made


def network(x: Tensor, c_noise: Tensor) -> Tensor:
    return 2 * x + c_noise[:, None, None, None, None]


def inputs(seed: int, frames: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, 4, 5, 5, generator=generator), torch.randn(1, generator=generator)


def test_a_recording_is_made_once_a_size_and_reads_what_it_is_given() -> None:
    tape = Tape()
    replayed, kept = Replayed(network, tape, parameters=10), []
    for seed, frames in ((0, 3), (1, 3), (2, 4), (3, 3)):
        given = inputs(seed, frames)
        kept.append((replayed(*given), network(*given)))
    assert (tape.recorded, tape.repeated) == (2, 4)
    for made, expected in kept:  # a later call has not written into an earlier result
        assert torch.equal(made, expected)


def test_a_long_estimate_is_not_recorded() -> None:
    tape, given = Tape(), inputs(0)
    assert torch.equal(Replayed(network, tape, parameters=10**15)(*given), network(*given))
    assert tape.recorded == 0
    assert pays(1_524_623_082, torch.empty(2, 14, 8, 32, 32, device="meta"))
    assert not pays(1_524_623_082, torch.empty(2, 25, 8, 72, 128, device="meta"))


def test_where_recording_fails_the_network_is_called(caplog: pytest.LogCaptureFixture) -> None:
    tape = Tape(RuntimeError("operation not permitted when stream is capturing"))
    replayed = Replayed(network, tape, parameters=10)
    with caplog.at_level(logging.WARNING, logger="stillmotion"):
        for seed in range(3):
            assert torch.equal(replayed(*inputs(seed)), network(*inputs(seed)))
    assert tape.recorded == 1
    assert sum("not permitted" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), KeyboardInterrupt()])
def test_what_is_no_fault_of_recording_comes_through(error: BaseException) -> None:
    with pytest.raises(type(error)):
        Replayed(network, Tape(error), parameters=10)(*inputs(0))


@pytest.mark.slow
def test_a_denoiser_repeats_its_recorded_steps(unet: UNet) -> None:
    x, _, context, numbers = latents(1, 3, 6, 4)
    condition, scale, tape = Condition(context, x[:, :1, 4:], numbers), torch.tensor([1.0, 2.0, 3.0]), Tape()
    with torch.inference_mode():
        denoise = guided_denoiser(unet, condition, scale, compiled=Compiled(CPU, COUNTING, tape))
        plain = guided_denoiser(unet, condition, scale)
        for sigma in (3.0, 1.0):
            made, expected = (each(x[:, :, :4], torch.tensor(sigma)) for each in (denoise, plain))
            torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)
    assert (tape.recorded, tape.repeated) == (1, 2)


def test_only_cuda_has_a_recorder_of_its_own() -> None:
    assert Compiled(CPU).replayed(network, torch.nn.Identity()) is network
    assert isinstance(Compiled(CPU, recorder=Tape()).replayed(network, torch.nn.Identity()), Replayed)


CHILD = """
import json, sys, torch
from torch._dynamo.utils import counters
from stillmotion.nn.regions import Regions
from stillmotion.models.moments import moments_of
x, regions = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)), Regions()
made = regions.around(lambda _: moments_of(x))
error = float((made.mean - x.mean(0)).abs().max() + (made.variance - x.var(0, correction=0)).abs().max())
print(json.dumps({"error": error, "failure": regions.failure, **counters["inductor"]}))
"""


def run_child(**environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_second_process_finds_the_kernels_of_the_first(tmp_path: Path) -> None:
    first, second = run_child(XDG_CACHE_HOME=str(tmp_path)), run_child(XDG_CACHE_HOME=str(tmp_path))
    assert first["failure"] is None and first["error"] < 1e-4 and first["fxgraph_cache_miss"] > 0
    assert second["failure"] is None and second["error"] == first["error"]
    assert second.get("fxgraph_cache_miss", 0) == 0 and second["fxgraph_cache_hit"] == first["fxgraph_cache_miss"]
    assert any((tmp_path / "stillmotion" / "kernels").rglob("*.so"))


@pytest.mark.slow
def test_a_machine_without_a_compiler_goes_on_without(tmp_path: Path) -> None:
    found = run_child(XDG_CACHE_HOME=str(tmp_path), CXX="no-such-compiler")
    assert found["failure"] is not None and found["error"] < 1e-4

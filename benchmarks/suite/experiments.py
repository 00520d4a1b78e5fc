"""How each figure is measured, on any device."""

from __future__ import annotations

import dataclasses
import functools
import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stillmotion.models.autoencoder import Autoencoder
from stillmotion.models.memory import count, weight_bytes
from stillmotion.pipelines.plan import cost
from stillmotion.placement import DTYPES, Placement, resolve
from stillmotion.tasks.machine import free_bytes

from . import alone, ours, peer
from .figures import Measured, share_of_peer, times_faster
from .figures import alone as ours_alone
from .networks import PRESETS, SIGMA, Request, components, latents_of, write_sparse_folder
from .rates import Rates, products
from .shapes import Shapes
from .timing import Turns, distance, in_turns, psnr

Found = dict[str, Measured]
GIGABYTE, TERA = 1e9, 1e12


@dataclasses.dataclass(slots=True)
class Lab:
    """Where experiments run. It keeps one pair of sides at a time: two of the full size would not fit."""

    device: str
    shapes: Shapes
    small: bool
    _kept: tuple[tuple[str, str], tuple[ours.Side, peer.Side]] | None = None

    def sides(self, preset: str, dtype: str) -> tuple[ours.Side, peer.Side]:
        """Both sides with the same weights."""
        key = (preset, dtype)
        if self._kept is None or self._kept[0] != key:
            self.clear()
            networks = components(PRESETS[preset], DTYPES[dtype])
            mine = ours.side_of(networks, PRESETS[preset], dtype, self.device)
            self._kept = (key, (mine, peer.side_of(networks, PRESETS[preset], self.device)))
        return self._kept[1]

    def clear(self) -> None:
        """Let go of the networks."""
        self._kept = None
        gc.collect()
        if torch.device(self.device).type == "cuda":
            torch.cuda.empty_cache()

    def turns(self, functions: Mapping[str, Callable[[], object]], long: bool = False, warm_ups: int = 1) -> Turns:
        """Time these in turns; `warm_ups` is 0 for what has run before, or runs for minutes."""
        return in_turns(functions, self.shapes.long_turns if long else self.shapes.turns, self.device, warm_ups)

    def spec(self, what: alone.What, side: Any, request: Request, dtype: str, **more: Any) -> alone.Spec:
        """A child's task for one request."""
        asked = {name: getattr(request, name) for name in ("frames", "width", "height", "steps", "chunk")}
        preset = self.shapes.preset
        return alone.Spec(what, side, preset=preset, dtype=dtype, device=self.device, **asked, **more)

    @contextmanager
    def folder(self, dtype: str) -> Iterator[str]:
        """A diffusers folder of the model's shape, gone afterwards."""
        with tempfile.TemporaryDirectory() as place:
            write_sparse_folder(Path(place), PRESETS[self.shapes.preset], dtype)
            yield place


def unet_step(lab: Lab, dtype: str) -> Found:
    """One guided step on both sides, and the share of the machine's best rate that it reaches."""
    request, preset = lab.shapes.step, PRESETS[lab.shapes.preset]
    mine, other = lab.sides(lab.shapes.preset, dtype)
    latents = latents_of(preset, request)
    steps = mine.guided_step(latents, SIGMA), other.guided_step(latents, SIGMA)
    apart = distance(steps[0](), steps[1]())
    rates = Rates(products(DTYPES[dtype], lab.device, lab.small), lab.device)
    turns = lab.turns({"ours": steps[0], "peer": steps[1], "rates": rates.measure}, warm_ups=0)
    times, (best, fastest) = (turns.median("ours"), turns.median("peer")), rates.best()
    operations = step_operations(preset.name, request, dtype)
    shares = [operations / seconds / best for seconds in times]
    about = {"operations": operations, "best_rate": best, "best_product": fastest, "peer_share": shares[1]}
    step_note = f"results {apart:.1e} std apart; {shares[0]:.0%} and {shares[1]:.0%} of {best / TERA:.3g} TFLOP/s"
    share_note = f"{operations / TERA:.3g} TFLOP a step; best rate {best / TERA:.3g} TFLOP/s: {fastest}"
    return {
        f"unet-step-{dtype}": times_faster(*times, step_note, distance=apart, seconds=dict(turns.seconds)),
        f"rate-share-{dtype}": ours_alone(shares[0], share_note, shares[1], **about),
    }


def decode(lab: Lab, dtype: str) -> Found:
    """The temporal decode of all frames, exact on both sides."""
    request = lab.shapes.decode
    mine, other = lab.sides(lab.shapes.preset, dtype)
    latents = latents_of(PRESETS[lab.shapes.preset], request)
    calls = mine.decode(latents, request), other.decode(latents, request)
    apart = distance(calls[0](), calls[1]())
    turns = lab.turns({"ours": calls[0], "peer": calls[1]}, long=True, warm_ups=0)
    times = turns.median("ours"), turns.median("peer")
    note, about = f"frames {apart:.1e} std apart", {"distance": apart, "seconds": dict(turns.seconds)}
    return {
        f"decode-{dtype}": times_faster(*times, note, **about),
        f"decode-seconds-{dtype}": ours_alone(times[0], note, times[1], **about),
    }


def end_to_end(lab: Lab, name: str, preset: str, request: Request, dtype: str) -> Found:
    """Image in, uint8 frames out, both sides in one precision."""
    mine, other = lab.sides(preset, dtype)
    return {name: _videos(lab, request, mine, other)}


def defaults(lab: Lab) -> Found:
    """What a user gets who sets nothing: our precision for this machine against float32."""
    preset, request = PRESETS[lab.shapes.preset], lab.shapes.default
    chosen = resolve(Placement(device=lab.device)).dtype
    lab.clear()
    networks = components(preset, torch.float32)
    other = peer.side_of(networks, preset, lab.device)
    if chosen != "float32":
        networks = components(preset, DTYPES[chosen])
    mine = ours.side_of(networks, preset, chosen, lab.device)
    found = _videos(lab, request, mine, other)
    return {"defaults": dataclasses.replace(found, note=f"ours in {chosen}, diffusers in float32; {found.note}")}


def _videos(lab: Lab, request: Request, mine: ours.Side, other: peer.Side) -> Measured:
    made = {}

    def generate(name: str, side: ours.Side | peer.Side) -> None:
        made[name] = side.generate(request)

    calls = {name: functools.partial(generate, name, side) for name, side in (("ours", mine), ("peer", other))}
    takes_minutes = torch.device(lab.device).type == "cpu" and request is not lab.shapes.embedded
    turns = lab.turns(calls, long=True, warm_ups=0 if takes_minutes else 1)
    near = psnr(made["ours"], made["peer"])
    about = {"psnr_db": near, "seconds": dict(turns.seconds)}
    note = f"PSNR {near:.1f} dB between the two"
    if takes_minutes:  # its turns begin with the first video, which lays weights out
        ours_first, peer_first = (turns.seconds[name][0] for name in ("ours", "peer"))
        note += f"; the first video {ours_first:.3g} s against {peer_first:.3g} s"
    return times_faster(turns.median("ours"), turns.median("peer"), note, **about)


def against_eager(lab: Lab, dtype: str) -> Found:
    """One whole video, warm: ours, and diffusers as it comes."""
    request = lab.shapes.whole
    found = _videos(lab, request, *lab.sides(lab.shapes.preset, dtype))
    return {"video-seconds": ours_alone(found.ours, found.note, found.peer), "against-eager": found}


def against_compiled(lab: Lab, dtype: str) -> Found:
    """The same against diffusers compiled."""
    mine, other = lab.sides(lab.shapes.preset, dtype)
    other.compile(lab.shapes.compiler)
    found = _videos(lab, lab.shapes.whole, mine, other)
    lab.clear()  # the peer stays compiled
    return {"against-compiled": found}


def decode_memory(lab: Lab, dtype: str) -> Found:
    """Peak memory of decoding, each side alone: ours exact with one frame at a time, diffusers all at once."""
    lab.clear()
    requests = {"decode-memory": lab.shapes.decode_memory, "decode-memory-fits": lab.shapes.decode_memory_fits}
    return {name: _decode_memory(lab, request, dtype) for name, request in requests.items()}


def _decode_memory(lab: Lab, request: Request, dtype: str) -> Measured:
    mine = alone.ask(lab.spec("decode", "ours", dataclasses.replace(request, chunk=1), dtype))
    free, floor = free_bytes(torch.device(lab.device)), peer_floor_bytes(lab.shapes.preset, request, dtype)
    if floor > free:
        note = f"diffusers' side is not measured: counted from shapes, more than the {free / GIGABYTE:.3g} GB free here"
        return share_of_peer(mine["peak_bytes"] / GIGABYTE, floor / GIGABYTE, note, counted_peer=True)
    other = alone.ask(lab.spec("decode", "peer", request, dtype))
    note = f"{mine['seconds']:.3g} s and {other['seconds']:.3g} s; weights of the decoder included"
    peaks = mine["peak_bytes"] / GIGABYTE, other["peak_bytes"] / GIGABYTE
    return share_of_peer(*peaks, note, seconds=[mine["seconds"], other["seconds"]])


def peer_floor_bytes(preset: str, request: Request, dtype: str) -> int:
    """What decoding all frames at once cannot do without: what lives at once of the plain decoder, and its weights.

    Copies that a processor's kernels make for their own come on top.
    """
    shape = PRESETS[preset]
    with torch.device("meta"):
        network = Autoencoder(shape.autoencoder).to(DTYPES[dtype])
    latents = latents_of(shape, request).to("meta", DTYPES[dtype])
    living = count(lambda: network.decode(latents), torch.device("meta")).peak_bytes
    return living + weight_bytes(network, DTYPES[dtype])


def whole_memory(lab: Lab, dtype: str) -> Found:
    """Peak memory of loading a model and making a video, each side alone, as shares of diffusers'.

    Pages of a mapped file count while they are resident, on either side.
    """
    fast, lean, streamed, other = _runs(lab, dtype, ("", "lean", "streamed"))
    return {
        f"memory-{dtype}": _peak(fast, other),
        f"memory-lean-{dtype}": _peak(lean, other),
        f"memory-streamed-{dtype}": _peak(streamed, other),
        f"predicted-{dtype}": _predicted(fast),
        f"predicted-lean-{dtype}": _predicted(lean),
        f"predicted-streamed-{dtype}": _predicted(streamed),
    }


def device_memory(lab: Lab, dtype: str, budgets: tuple[float, float]) -> Found:
    """The peaks themselves, of what the memory plan chooses for two budgets in GB."""
    plans = tuple(str(int(budget * GIGABYTE)) for budget in budgets)
    fast, lean, other = _runs(lab, dtype, plans)
    peaks = [_peak(run, other) for run in (fast, lean)]
    return {
        "memory-fast": dataclasses.replace(peaks[0], value=peaks[0].ours),
        "memory-lean": dataclasses.replace(peaks[1], value=peaks[1].ours),
        "predicted-fast": _predicted(fast),
        "predicted-lean": _predicted(lean),
    }


def _runs(lab: Lab, dtype: str, plans: Sequence[str]) -> list[dict[str, float]]:
    """One video in a process of its own: ours under each plan, and diffusers as it comes."""
    lab.clear()
    with lab.folder(dtype) as folder:
        kinds: list[tuple[str, str]] = [*(("ours", plan) for plan in plans), ("peer", "")]
        specs = [lab.spec("generate", side, lab.shapes.memory, dtype, folder=folder, plan=plan) for side, plan in kinds]
        return [alone.ask(each) for each in specs]


def _peak(run: dict[str, float], other: dict[str, float]) -> Measured:
    note = f"{run['seconds']:.3g} s against {other['seconds']:.3g} s, first video, weights included"
    return share_of_peer(run["peak_bytes"] / GIGABYTE, other["peak_bytes"] / GIGABYTE, note, run=run, other=other)


def _predicted(run: dict[str, float]) -> Measured:
    ratio = run["predicted_bytes"] / run["peak_bytes"]
    note = f"{run['predicted_bytes'] / GIGABYTE:.3g} GB predicted"
    return Measured(run["peak_bytes"] / GIGABYTE, None, ratio, note)


def chunks(lab: Lab, dtype: str) -> Found:
    """How far the frames move when fewer are decoded at once."""
    request = lab.shapes.chunked
    mine = ours.decoder_alone(PRESETS[lab.shapes.preset], DTYPES[dtype], lab.device)
    latents = latents_of(PRESETS[lab.shapes.preset], request)
    whole = mine.decode(latents, request)()
    apart = {}
    for chunk in lab.shapes.chunks:
        frames = mine.decode(latents, dataclasses.replace(request, chunk=chunk))()
        apart[str(chunk)] = (frames - whole).abs().max().item()
    note = f"{request.size}, against all frames at once: " + ", ".join(f"chunk {k}: {v:.1e}" for k, v in apart.items())
    return {"chunks": ours_alone(max(apart.values()), note, by_chunk=apart)}


def start_up(lab: Lab, dtype: str) -> Found:
    """Seconds of an import, and from the start of a program to its first guided step."""
    lab.clear()
    bare, pipeline = ("stillmotion", "diffusers"), "StableVideoDiffusionPipeline"
    modules = {"import-bare": bare, "import-pipeline": tuple(f"{name}:{pipeline}" for name in bare)}
    found: Found = {}
    for name, pair in modules.items():
        specs = {
            side: alone.Spec("import", side, module=each) for side, each in zip(("ours", "peer"), pair, strict=True)
        }
        times = _answers(lab, specs, "seconds")
        found[name] = times_faster(times[0], times[1], f"{pair[0]} against {pair[1]}".replace(":", "."))
    with lab.folder(dtype) as folder:
        request = lab.shapes.first_step
        specs = {side: lab.spec("first-step", side, request, dtype, folder=folder) for side in ("ours", "peer")}
        times = _answers(lab, specs, "seconds", "load_s")
    note = f"{request.size}, {dtype}, weights mapped from sparse files: no disk is waited for"
    found["load"] = times_faster(times[2], times[3], note)
    found["first-step"] = times_faster(times[0], times[1], note)
    return found


def _answers(lab: Lab, specs: dict[str, alone.Spec], *keys: str) -> list[float]:
    """Medians of what children answer in turns: ours and the peer's for each key."""
    answers: dict[str, list[dict[str, float]]] = {side: [] for side in specs}
    for _ in range(lab.shapes.long_turns):
        for side, spec in specs.items():
            answers[side].append(alone.ask(spec))
    middle = lab.shapes.long_turns // 2
    return [sorted(each[key] for each in answers[side])[middle] for key in keys for side in specs]


def growth(lab: Lab, dtype: str) -> Found:
    """Seconds of a guided step as the clip, the frame or the batch grows; the value is the largest case's ratio."""
    base, shapes = lab.shapes.grows_from, lab.shapes
    cases = {
        "frames": [(count, dataclasses.replace(base, frames=count), 1) for count in shapes.frames],
        "pixels": [(side**2, dataclasses.replace(base, width=side, height=side), 1) for side in shapes.sides],
        "batch": [(batch, base, batch) for batch in shapes.batches],
    }
    return {f"growth-{name}": _growth(lab, name, rows, dtype) for name, rows in cases.items()}


def _growth(lab: Lab, axis: str, cases: list[tuple[int, Request, int]], dtype: str) -> Measured:
    mine, other = lab.sides(lab.shapes.preset, dtype)
    points = []
    for size, request, batch in cases:
        latents = latents_of(PRESETS[lab.shapes.preset], request, batch)
        calls = {"ours": mine.guided_step(latents, SIGMA), "peer": other.guided_step(latents, SIGMA)}
        turns = lab.turns(calls, long=True)
        points.append({"size": size, "ours": turns.median("ours"), "peer": turns.median("peer")})
    last = points[-1]
    note = f"{axis} " + ", ".join(f"{p['size']}: {p['ours']:.3g} s" for p in points)
    return times_faster(last["ours"], last["peer"], note, points=points, axis=axis)


def step_operations(preset: str, request: Request, dtype: str) -> float:
    """Operations of one guided step of the plain network, both branches."""
    counted = cost(PRESETS[preset], ours.settings_of(request), request.width, request.height, dtype)
    return counted.denoise_operations / counted.model_calls

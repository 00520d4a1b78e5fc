"""Scripts written for diffusers run on our classes."""

from __future__ import annotations

import copy
import fnmatch
import json
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from stillmotion import hub
from stillmotion.checkpoints import load as checkpoints
from stillmotion.checkpoints import store
from stillmotion.checkpoints.diffusers import SCHEDULER
from stillmotion.diffusers_api import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    StableVideoDiffusionPipelineOutput,
    UNetSpatioTemporalConditionModel,
    export_to_video,
    load_image,
)
from stillmotion.diffusers_api.generation import check_generators
from stillmotion.diffusers_api.memory import savings_left
from stillmotion.diffusers_api.offload import Offload
from stillmotion.diffusers_api.pretrained import shard_bytes
from stillmotion.diffusers_api.request import check_callback, check_tensors, latents_of, real, whole
from stillmotion.diffusers_api.scheduler import levels_of_other
from stillmotion.errors import Cancelled, CheckpointError, MediaError, StillmotionError, UsageError
from stillmotion.media.video import read_video
from stillmotion.placement import owners

UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "num_attention_heads": (2, 4),
    "num_frames": 3,
}
WRONG_TYPE = (UsageError, TypeError)  # the latter where the suite runs with types checked
VAE = {"down_block_types": ("DownEncoderBlock2D",) * 4, "block_out_channels": (32,) * 4, "sample_size": 32}


@pytest.fixture(scope="module")
def components():
    torch.manual_seed(0)
    tower = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=32,
        projection_dim=32,
    )
    return {
        "vae": AutoencoderKLTemporalDecoder(**VAE).eval(),
        "image_encoder": transformers.CLIPVisionModelWithProjection(tower).eval(),
        "unet": UNetSpatioTemporalConditionModel(**UNET).eval(),
        "scheduler": EulerDiscreteScheduler.from_config(SCHEDULER),
        "feature_extractor": transformers.CLIPImageProcessor(),
    }


@pytest.fixture
def pipe(components):
    made = StableVideoDiffusionPipeline(**components)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folder(components, tmp_path_factory):
    """A checkpoint as the guide loads it: weights of the variant fp16."""
    path = tmp_path_factory.mktemp("checkpoint")
    halves = {name: copy.deepcopy(part) for name, part in components.items()}
    StableVideoDiffusionPipeline(**halves).to(torch.float16).save_pretrained(path, variant="fp16")
    return path


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "rocket.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(path)
    return path


def small(**arguments):
    image = Image.new("RGB", (16, 16), (200, 30, 90))
    chosen = {"image": image, "height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent"}
    return chosen | {"generator": torch.Generator().manual_seed(0)} | arguments


def test_the_code_of_the_guide_runs(folder, picture, tmp_path):
    pipe = StableVideoDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16, variant="fp16")
    pipe.enable_model_cpu_offload()
    image = load_image(str(picture))
    image = image.resize((64, 32))
    generator = torch.manual_seed(42)
    pipe.unet.enable_forward_chunking()
    frames = pipe(
        image,
        decode_chunk_size=2,
        generator=generator,
        motion_bucket_id=180,
        noise_aug_strength=0.1,
        num_frames=3,
        num_inference_steps=2,
        height=32,
        width=64,
    ).frames[0]
    path = export_to_video(frames, str(tmp_path / "generated.mp4"), fps=7)
    video = read_video(Path(path))
    assert video.frames.shape == (3, 32, 64, 3)
    assert video.fps == 7


@pytest.mark.slow
def test_the_embedded_model_runs_by_its_name():
    pipe = StableVideoDiffusionPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    image = Image.linear_gradient("L")
    frames = pipe(image, height=64, width=64, num_frames=2, num_inference_steps=1).frames[0]
    assert [frame.size for frame in frames] == [(64, 64)] * 2


def test_weights_come_back_as_they_were_saved(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = StableVideoDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.dtype == torch.float32
    assert dict(again.scheduler.config) == dict(pipe.scheduler.config)
    assert again.unet.config.num_frames == 3
    assert json.loads((tmp_path / "model_index.json").read_text()) == dict(pipe.config)
    assert torch.equal(again(**small()).frames, pipe(**small()).frames)


def test_a_given_component_replaces_that_of_the_folder(folder, components):
    unet = components["unet"]
    pipe = StableVideoDiffusionPipeline.from_pretrained(folder, variant="fp16", unet=unet, dtype=torch.bfloat16)
    assert pipe.unet is unet
    assert pipe.vae.dtype == torch.bfloat16
    assert StableVideoDiffusionPipeline(**pipe.components).unet is unet


@pytest.mark.parametrize(
    ("kind", "part"), [(UNetSpatioTemporalConditionModel, "unet"), (AutoencoderKLTemporalDecoder, "vae")]
)
def test_a_network_loads_and_saves_alone(kind, part, folder, tmp_path):
    network = kind.from_pretrained(folder, subfolder=part, variant="fp16")
    assert network.dtype == torch.float32
    assert not network.training
    network.save_pretrained(tmp_path / "alone")
    again = kind.from_pretrained(tmp_path / "alone", torch_dtype=torch.float16)
    assert again.dtype == torch.float16
    for name, value in network.state_dict().items():
        assert torch.equal(value.half(), again.state_dict()[name])
    with pytest.raises(CheckpointError, match=r"expected diffusion_pytorch_model\.safetensors or"):
        kind.from_pretrained(folder, subfolder=part)
    with pytest.raises(CheckpointError, match="of another shape"):
        wider = [*network.config["block_out_channels"][:-1], 96]
        (tmp_path / "alone" / "config.json").write_text(json.dumps({**network.config, "block_out_channels": wider}))
        kind.from_pretrained(tmp_path / "alone")


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder"])
def test_a_given_component_is_neither_fetched_nor_read(part, folder, components, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / part)
    asked = []

    def fetch(repo_id, *, revision, patterns, access):
        asked.append((patterns, access))
        return tmp_path / "model"

    monkeypatch.setattr(hub, "fetch", fetch)
    given = {part: components[part]}
    pipe = StableVideoDiffusionPipeline.from_pretrained("me/mine", variant="fp16", token="mine", **given)
    assert getattr(pipe, part) is components[part]
    patterns, access = asked[0]
    assert access.token == "mine"
    assert not any(pattern.startswith(f"{part}/") for pattern in patterns)
    assert len([pattern for pattern in patterns if pattern.endswith(".safetensors")]) == 6


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (UNetSpatioTemporalConditionModel, "unet"),
        (AutoencoderKLTemporalDecoder, "vae"),
        (EulerDiscreteScheduler, "scheduler"),
    ],
)
def test_of_a_repository_only_the_files_of_the_part_are_fetched(kind, part, pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path)
    asked = []

    def fetch(repo_id, *, revision, patterns, access):
        asked.append((repo_id, revision, patterns, access))
        return tmp_path

    monkeypatch.setattr(hub, "fetch", fetch)
    kind.from_pretrained(
        "me/mine",
        subfolder=part,
        revision="v1",
        cache_dir="here",
        token="mine",
        local_files_only=True,
        force_download=True,
    )
    repo_id, revision, patterns, access = asked[0]
    assert (repo_id, revision) == ("me/mine", "v1")
    assert access == hub.Access("here", "mine", True, True)
    wanted = [name for name in ("config.json", "diffusion_pytorch_model.safetensors") if part != "scheduler"]
    for name in wanted or ["scheduler_config.json"]:
        assert f"{part}/{name}" in patterns
    for other in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.safetensors"):
        assert not any(fnmatch.fnmatch(f"{part}/{other}", pattern) for pattern in patterns)


@pytest.mark.parametrize(
    ("size", "expected"), [(5, 5), ("5GB", 5 * 10**9), ("2 mib", 2 * 2**20), ("10KB", 10_000), (None, None)]
)
def test_a_size_is_a_number_or_a_text(size, expected):
    assert shard_bytes(size) == expected


@pytest.mark.parametrize("size", [0, -1, "", "5", "0GB", "0.2MB", "5 sheep"])
def test_a_size_that_is_none_is_refused(size, pipe, tmp_path):
    with pytest.raises(UsageError, match="max_shard_size is"):
        pipe.save_pretrained(tmp_path, max_shard_size=size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [pytest.param(200_000, marks=pytest.mark.slow), "200KB"])
def test_weights_are_cut_and_come_back(size, pipe, tmp_path):
    for limit, in_one in ((size, False), ("5GB", True), (size, False)):
        pipe.save_pretrained(tmp_path, max_shard_size=limit)
        for part in ("unet", "vae", "image_encoder"):
            names = [path.name for path in (tmp_path / part).iterdir()]
            assert (len(names) == 2) == in_one, names  # nothing of the older save is left
        again = StableVideoDiffusionPipeline.from_pretrained(tmp_path)
        for network, expected in ((again.unet, pipe.unet), (again.image_encoder, pipe.image_encoder)):
            for name, value in expected.state_dict().items():
                assert torch.equal(network.state_dict()[name], value), name
    alone = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path, subfolder="unet")
    assert torch.equal(alone.conv_in.weight, pipe.unet.conv_in.weight)


def test_a_loaded_network_is_ready_to_be_trained(pipe, tmp_path):
    pipe.unet.save_pretrained(tmp_path)
    unet = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path)
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in unet.parameters())
    with torch.no_grad():
        unet.conv_in.weight.add_(1.0)  # a change never reaches the file
    assert not torch.equal(
        UNetSpatioTemporalConditionModel.from_pretrained(tmp_path).conv_in.weight, unet.conv_in.weight
    )


MEASURE = """
import sys
from pathlib import Path
from stillmotion.diffusers_api import UNetSpatioTemporalConditionModel
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
warm, large = sys.argv[1:]
UNetSpatioTemporalConditionModel.from_pretrained(warm)
before = peak()
unet = UNetSpatioTemporalConditionModel.from_pretrained(large)
for value in unet.parameters():
    value.detach().flatten()[::512].sum()
sys.stdout.write(f"{peak() - before} {sum(value.nbytes for value in unet.parameters())}")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_loading_takes_the_memory_of_the_network(dtype, pipe, tmp_path):
    pipe.unet.save_pretrained(tmp_path / "warm")
    with torch.device("meta"):
        wide = {"block_out_channels": (320, 640), "num_attention_heads": (5, 10)}
        unet = UNetSpatioTemporalConditionModel.from_config(pipe.unet.config, **wide)
    tensors = {name: (value,) for name, value in unet.state_dict().items()}
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text(json.dumps(unet.config))
    with (tmp_path / "large" / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(store.header(tensors, dtype))  # sparse behind its header
        file.truncate(file.tell() + sum(store.stored_bytes(parts, dtype) for parts in tensors.values()))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "warm"), str(tmp_path / "large")]
    done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, kept = map(int, done.split())
    assert kept > 100e6
    assert peak < 1.1 * kept + 20e6  # the largest tensor is not small beside a model of this size


def test_integers_are_no_weights_and_another_class_is_refused(pipe, tmp_path):
    pipe.unet.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"conv_in.bias": tensors["conv_in.bias"].int()}, path)
    with pytest.raises(CheckpointError, match=r"torch\.int32"):
        UNetSpatioTemporalConditionModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="expected AutoencoderKLTemporalDecoder"):
        AutoencoderKLTemporalDecoder.from_pretrained(tmp_path)


def test_what_cannot_be_saved_is_refused(pipe, tmp_path):
    for save in (pipe.save_pretrained, pipe.unet.save_pretrained, pipe.vae.save_pretrained):
        for wrong in ({"safe_serialization": False}, {"push_to_hub": True}):
            with pytest.raises(UsageError, match=next(iter(wrong))):
                save(tmp_path, **wrong)
    with pytest.raises(UsageError, match="push_to_hub"):
        pipe.scheduler.save_pretrained(tmp_path, push_to_hub=True)
    with pytest.raises(UsageError, match="save_function"):
        pipe.unet.save_pretrained(tmp_path, save_function=torch.save)
    pipe.unet.save_pretrained(tmp_path, is_main_process=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 0},
        {"num_inference_steps": 1001},
        {"sigmas": [1.0, 2.0, 0.0]},
        {"sigmas": [1.0]},
        {"sigmas": [float("inf"), 1.0, 0.0]},
        {"sigmas": [float("nan"), 1.0, 0.0]},
        {"max_guidance_scale": float("nan")},
    ],
)
def test_what_cannot_be_is_refused_before_any_work(arguments, pipe, monkeypatch):
    def never(*_, **__):
        raise AssertionError("work was done")

    monkeypatch.setattr(pipe.image_encoder, "forward", never)
    monkeypatch.setattr(pipe.vae, "encode", never)
    with pytest.raises(UsageError):
        pipe(**small(**arguments))


def test_a_generator_on_another_device_is_refused():
    class Elsewhere(torch.Generator):
        device = torch.device("cuda")

    with pytest.raises(UsageError, match="the generator is on cuda; expected one on cpu"):
        check_generators(Elsewhere(), torch.device("cpu"))


def test_a_single_file_loads_with_a_preset_a_folder_or_a_json(folder, tmp_path):
    loaded = checkpoints.load(folder, variant="fp16", dtype=torch.float32)
    file = tmp_path / "mine.safetensors"
    checkpoints.save(loaded.components, loaded.preset, file, "sgm")
    expected = StableVideoDiffusionPipeline.from_pretrained(folder, variant="fp16").unet.state_dict()
    for config in (loaded.preset, folder):
        pipe = StableVideoDiffusionPipeline.from_single_file(file, config=config)
        assert pipe.scheduler.config.sigma_max == 700
        for name, value in pipe.unet.state_dict().items():
            assert torch.equal(value, expected[name]), name
    with pytest.raises(UsageError, match="config"):
        StableVideoDiffusionPipeline.from_single_file(file)


def test_a_config_is_read_by_attribute_and_by_item(pipe):
    config = pipe.unet.config
    assert config.num_frames == config["num_frames"] == config.get("num_frames") == 3
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(AttributeError, match="has no depth"):
        _ = config.depth
    with pytest.raises(UsageError):
        config.num_frames = 5
    changes = (
        lambda: config.update(num_frames=5),
        lambda: config.pop("num_frames"),
        lambda: config.popitem(),
        lambda: config.setdefault("depth", 1),
        lambda: config.clear(),
        lambda: config.__delitem__("num_frames"),
        lambda: config.__ior__({"num_frames": 5}),
    )
    for change in changes:
        with pytest.raises(UsageError, match="cannot be changed"):
            change()
    assert config.num_frames == 3
    longer = UNetSpatioTemporalConditionModel.from_config(config, num_frames=25)
    assert longer.config.num_frames == longer.cfg.frames == 25
    with pytest.raises(UsageError, match="no setting frames"):
        UNetSpatioTemporalConditionModel.from_config(config, frames=25)
    assert EulerDiscreteScheduler.from_config(pipe.scheduler.config, sigma_max=80.0).config.sigma_max == 80


def test_norms_are_the_original_ones_unless_asked(pipe, folder):
    assert "norm_eps" not in pipe.unet.config
    other = UNetSpatioTemporalConditionModel.from_pretrained(
        folder, subfolder="unet", variant="fp16", norm_eps="diffusers"
    )
    eps = [network.up_blocks[0].resnets[0].spatial_res_block.norm1.eps for network in (pipe.unet, other)]
    assert eps == [1e-5, 1e-6]
    assert UNetSpatioTemporalConditionModel.from_config(other.config).cfg.norm_eps == "diffusers"


def test_chosen_norms_are_saved(pipe, tmp_path):
    pipe.unet = UNetSpatioTemporalConditionModel.from_config(pipe.unet.config, norm_eps="diffusers")
    pipe.save_pretrained(tmp_path)
    assert StableVideoDiffusionPipeline.from_pretrained(tmp_path).unet.cfg.norm_eps == "diffusers"
    again = StableVideoDiffusionPipeline.from_pretrained(tmp_path, norm_eps="original")
    assert again.unet.cfg.norm_eps == "original"


def test_a_result_is_read_by_name_and_by_place():
    frames = [[Image.new("RGB", (8, 8))]]
    output = StableVideoDiffusionPipelineOutput(frames=frames)
    assert output.frames is output["frames"] is output[0] is frames
    assert output.to_tuple() == (frames,) == output.values()
    assert list(output) == ["frames"] and "frames" in output and len(output) == 1
    assert output.get("frames") is frames and output.get("latents") is None


@pytest.mark.parametrize(
    "kind", [UNetSpatioTemporalConditionModel, AutoencoderKLTemporalDecoder, EulerDiscreteScheduler]
)
def test_a_configuration_is_saved_and_loaded_alone(kind, pipe, tmp_path):
    part = next(each for each in pipe.components.values() if isinstance(each, kind))
    part.save_config(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    again = kind.from_config(kind.load_config(tmp_path)).config
    assert json.dumps(again) == json.dumps(part.config)  # where a tuple is a list


def test_what_is_not_known_is_said_once_and_ignored(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="does not know trust_remote_code") as caught:
        StableVideoDiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("value", "check"),
    [
        ("2", whole),
        (2.0, whole),
        (True, whole),
        (None, whole),
        ("3", real),
        (None, real),
        (torch.zeros(2), real),
    ],
)
def test_numbers_are_numbers(value, check):
    with pytest.raises(UsageError, match=r"argument is .*; expected a"):
        check("argument", value)
    assert whole("argument", np.int64(3)) == 3 and real("argument", torch.tensor(2.5)) == 2.5


def test_tensors_and_callbacks_are_what_they_should_be():
    for generator, latents in ((5, None), ([None, "a"], None), (None, np.zeros(3)), (None, torch.zeros(3, dtype=int))):
        with pytest.raises(UsageError, match="expected a"):
            check_tensors(generator, latents)
    for callback, names in ((5, ("latents",)), (print, None), (print, "latents"), (print, ("noise",))):
        with pytest.raises(UsageError, match="callback_on_step_end"):
            check_callback(callback, names, ("latents",))
    for returned in ([torch.zeros(2)], {"latents": torch.zeros(3)}, {"latents": [1, 2]}):
        with pytest.raises(UsageError, match="gave back"):
            latents_of(returned, torch.zeros(2))
    assert latents_of({}, torch.zeros(2)) is latents_of(None, torch.zeros(2)) is None


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers, by NumPy
def test_of_another_scheduler_the_levels_alone_are_used(pipe):
    settings = {"use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 80.0, "prediction_type": "v_prediction"}
    ours = EulerDiscreteScheduler.from_config(SCHEDULER, sigma_max=80.0, sigma_min=0.002)
    ours.set_timesteps(3)
    heun = diffusers.HeunDiscreteScheduler(use_karras_sigmas=True, prediction_type="v_prediction")
    levels = levels_of_other(heun, {"num_inference_steps": 3}, torch.device("cpu"))
    assert len(levels) == 4 and (levels.diff() < 0).all()
    theirs = diffusers.EulerDiscreteScheduler(**settings, timestep_type="continuous", timestep_spacing="leading")
    found = levels_of_other(theirs, {"num_inference_steps": 3}, torch.device("cpu"))
    assert torch.allclose(found, ours.sigmas.float())
    with pytest.raises(UsageError, match="DDIMScheduler has no sigmas"):
        levels_of_other(diffusers.DDIMScheduler(), {"num_inference_steps": 3}, torch.device("cpu"))
    ancestral = diffusers.EulerAncestralDiscreteScheduler()
    with pytest.raises(UsageError, match="EulerAncestralDiscreteScheduler does not take sigmas"):
        levels_of_other(ancestral, {"sigmas": [3.0, 1.0, 0.0]}, torch.device("cpu"))


def test_an_address_is_no_file():
    with pytest.raises(UsageError, match="is an address"):
        StableVideoDiffusionPipeline.from_single_file("https://example.org/svd.safetensors")


def test_a_model_stays_on_one_device(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="expected one device"):
        StableVideoDiffusionPipeline.from_pretrained(tmp_path, device_map="balanced")


@pytest.mark.slow
def test_a_compiled_unet_works_in_the_pipeline(pipe, tmp_path):
    expected = pipe(**small()).frames
    pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
    # A compiled network is called as it is, ours is prepared first: they differ by rounding.
    near = {"rtol": 0, "atol": 1e-3 * float(expected.std())}
    torch.testing.assert_close(pipe(**small()).frames, expected, **near)
    torch.testing.assert_close(pipe(**small()).frames, expected, **near)  # diffusers' second image failed: issue 10317
    pipe.save_pretrained(tmp_path)
    again = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path, subfolder="unet")
    assert torch.equal(again.conv_in.weight, pipe.unet.conv_in.weight)


def test_any_network_that_is_called_alike_works(pipe):
    class Zero(torch.nn.Module):
        def __init__(self, unet):
            super().__init__()
            self.unet, self.config, self.calls = unet, unet.config, []

        def forward(self, sample, timestep, encoder_hidden_states, added_time_ids, return_dict=True):
            self.calls.append((tuple(sample.shape), tuple(timestep.shape), tuple(added_time_ids.shape), return_dict))
            return (torch.zeros_like(sample[:, :, :4]),)

    pipe.unet = Zero(pipe.unet)
    assert pipe(**small()).frames.shape == (1, 3, 4, 4, 4)
    assert pipe.unet.calls == [((2, 3, 8, 4, 4), (), (2, 3), False)] * 2


def test_dtypes_and_devices(pipe):
    half = copy.deepcopy(pipe)
    assert half.to(torch.bfloat16) is half
    assert half.dtype == torch.bfloat16
    assert half.device.type == "cpu"
    for dtype in (torch.bfloat16, torch.float16):
        frames = half.to("cpu", dtype)(**small()).frames
        assert frames.dtype == dtype
        assert frames.isfinite().all()
        assert half.vae.dtype == dtype  # encoded in float32, and back
        exact = pipe(**small()).frames
        assert (frames.float() - exact).abs().mean() < 0.1 * exact.abs().mean()
    with pytest.raises(UsageError, match="cannot use"):
        pipe.to("cuda:99")


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_offload_leaves_the_result_and_the_networks_where_they_were(kind, pipe):
    expected = pipe(**small(output_type="pt")).frames
    pipe._offload = Offload(kind, torch.device("cpu"))
    # With hooks the network is called as it is, and not prepared: it differs by rounding.
    atol = 0 if kind == "model" else 3e-4
    torch.testing.assert_close(pipe(**small(output_type="pt")).frames, expected, rtol=0, atol=atol)
    assert not any(module._forward_hooks for module in pipe.unet.modules())


def test_every_weight_belongs_to_one_offloaded_layer(pipe):
    for network in (pipe.unet, pipe.vae, pipe.image_encoder):
        held = [name for owner in owners(network) for name in owner.parameters()]
        assert len(held) == len(list(network.parameters()))


def test_a_callback_sees_and_replaces_latents(pipe):
    seen = []

    def watch(running, step, timestep, tensors):
        assert running is pipe
        seen.append((step, round(timestep.item(), 4), tensors["latents"].dtype))

    plain = pipe(**small()).frames
    assert torch.equal(pipe(**small(callback_on_step_end=watch)).frames, plain)
    assert seen == [(0, 1.6378, torch.float32), (1, -1.5537, torch.float32)]
    zeros = pipe(**small(callback_on_step_end=lambda p, i, t, kw: {"latents": kw["latents"] * 0})).frames
    assert not zeros.any()


def test_a_callback_can_show_each_video_as_it_stands(pipe):
    with pytest.raises(UsageError, match="before any step"):
        pipe.preview()
    shown = []
    asked = {"image": [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime")], "num_videos_per_prompt": 2}
    plain = pipe(**small(**asked)).frames
    looking = pipe(**small(**asked, callback_on_step_end=lambda p, *step: shown.append(p.preview()))).frames
    assert torch.equal(looking, plain)
    assert [[len(video) for video in each] for each in shown] == [[3] * 4] * 2
    assert shown[0][0][0].size == (4, 4) and shown[1] == pipe.preview()
    means = [np.asarray(video[0]).mean((0, 1)) for video in shown[1]]
    assert [bool(mean[0] > mean[1]) for mean in means] == [True, True, False, False]


def test_a_callback_may_change_guidance(pipe):
    def without(running, step, timestep, tensors):
        running._guidance_scale = 1.0
        return tensors

    changed = pipe(**small(num_inference_steps=3, callback_on_step_end=without)).frames
    assert (changed - pipe(**small(num_inference_steps=3)).frames).abs().max() > 1e-4


def test_interrupts_from_a_thread_and_by_diffusers_flag(pipe):
    def from_thread(running, step, timestep, tensors):
        thread = threading.Thread(target=running.interrupt)
        thread.start()
        thread.join()

    def by_flag(running, step, timestep, tensors):
        running._interrupt = True

    for callback in (from_thread, by_flag):
        with pytest.raises(Cancelled, match="step 1 of 2"):
            pipe(**small(callback_on_step_end=callback))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"height": 30}, "height is 30"),
        ({"width": 0}, "width is 0"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"decode_chunk_size": 0}, "decode_chunk_size is 0"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt is 0"),
        ({"output_type": "gif"}, "output_type is 'gif'"),
        ({"sigmas": [1.0, 2.0, 0.0]}, "sigmas are"),
        ({"sigmas": [1.0]}, "sigmas are"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"max_guidance_scale": float("inf")}, "guidance is"),
        ({"generator": [torch.Generator(), torch.Generator()]}, "2 generators for 1"),
        ({"latents": torch.zeros(1, 3, 4, 8, 8)}, r"expected \(1, 3, 4, 4, 4\)"),
        ({"image": []}, "at least one"),
        ({"image": torch.zeros(1, 4, 8, 8)}, "expected 3 h w"),
        ({"image": torch.full((3, 8, 8), -1.0)}, r"expected floats in \[0, 1\]"),
        ({"callback_on_step_end_tensor_inputs": ["noise_pred"]}, "expected latents"),
    ],
)
def test_a_bad_argument_is_refused_in_one_sentence(arguments, said, pipe):
    with pytest.raises(UsageError, match=said) as caught:
        pipe(**small(**arguments))
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_a_path_is_no_image(pipe):
    with pytest.raises(WRONG_TYPE):
        pipe(**small(image="rocket.png"))


def test_bad_settings_are_refused():
    with pytest.raises(UsageError, match="one of each a level"):
        UNetSpatioTemporalConditionModel(**UNET | {"up_block_types": ("UpBlockSpatioTemporal",)})
    with pytest.raises(UsageError, match="same levels"):
        UNetSpatioTemporalConditionModel(
            **UNET | {"up_block_types": ("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal")}
        )
    with pytest.raises(WRONG_TYPE):
        UNetSpatioTemporalConditionModel(**UNET, norm_eps="mine")
    with pytest.raises(UsageError, match="expected the same"):
        AutoencoderKLTemporalDecoder(**VAE, out_channels=4)
    with pytest.raises(UsageError, match="beta_schedule is 'cosine'"):
        EulerDiscreteScheduler(beta_schedule="cosine")
    with pytest.raises(UsageError, match="exactly one"):
        EulerDiscreteScheduler().set_timesteps(5, sigmas=[1.0, 0.0])
    with pytest.raises(UsageError, match="sets its own"):
        EulerDiscreteScheduler.from_config(SCHEDULER).set_timesteps(timesteps=[1])
    with pytest.raises(UsageError, match="an index"):
        EulerDiscreteScheduler().step(torch.zeros(1), 3, torch.zeros(1))


def test_other_schedulers_predictions_are_refused(pipe):
    pipe.scheduler = EulerDiscreteScheduler()
    with pytest.raises(UsageError, match="prediction_type is epsilon"):
        pipe(**small())


def test_bad_sources_are_refused(folder, tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        StableVideoDiffusionPipeline.from_pretrained(str(tmp_path / "absent"))
    with pytest.raises(StillmotionError):
        UNetSpatioTemporalConditionModel.from_pretrained(tmp_path)
    with pytest.raises(UsageError, match="use_safetensors"):
        StableVideoDiffusionPipeline.from_pretrained(folder, use_safetensors=False)
    with pytest.raises(UsageError, match="torch_dtype"):
        StableVideoDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.int8)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    MemoryError(),
]
LAYERS = {
    "encoding": lambda pipe: pipe.vae.quant_conv,
    "denoising": lambda pipe: pipe.unet.conv_in,
    "decoding": lambda pipe: pipe.vae.decoder.conv_in,
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("stage", list(LAYERS))
def test_running_out_of_memory_is_one_sentence_and_the_next_call_works(stage, error, pipe):
    def fail(module, inputs):
        raise error

    handle = LAYERS[stage](pipe).register_forward_pre_hook(fail)
    try:
        with pytest.raises(StillmotionError, match=f"memory ran out in {stage} at 3 frames of 32x32; try ") as caught:
            pipe(**small(output_type="np"))
    finally:
        handle.remove()
    assert caught.value.__cause__ is None and caught.value.__context__ is None  # no trace keeps tensors alive
    said = str(caught.value)
    assert "\n" not in said and "torch.bfloat16" in said
    assert said.endswith(", fewer num_frames or a smaller height and width.")
    assert pipe(**small(output_type="np")).frames.shape == (1, 3, 32, 32, 3)


def test_it_says_so_of_latents_that_are_decoded_alone_and_other_errors_pass(pipe):
    errors = [OUT_OF_MEMORY[0], RuntimeError("shapes do not match")]

    def fail(module, inputs):
        raise errors.pop(0)

    pipe.chunked = "independent"
    handle = pipe.vae.decoder.conv_in.register_forward_pre_hook(fail)
    try:
        with pytest.raises(
            StillmotionError, match=r"2 videos of 3 frames of 64x64; try num_vid.*, decode_chunk_size=1, "
        ):
            pipe.decode_latents(torch.zeros(2, 3, 4, 8, 8), 3)
        with pytest.raises(RuntimeError, match="shapes"):
            pipe.decode_latents(torch.zeros(2, 3, 4, 8, 8), 3)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("offload", "chunk", "first"),
    [
        (None, 14, ["decode_chunk_size=1", "enable_model_cpu_offload()"]),
        (None, 1, ["enable_model_cpu_offload()"]),
        ("model", 1, ["enable_sequential_cpu_offload()"]),
        ("sequential", 1, []),
    ],
)
def test_what_is_set_already_is_not_proposed(offload, chunk, first):
    known = {"videos": 1, "chunk": chunk, "needs_chunk": True, "offload": offload, "is_on_cpu": False}
    always = ["fewer num_frames", "a smaller height and width"]
    assert savings_left("decoding", **known, dtype=torch.float16) == first + always


def test_progress_is_shown_unless_disabled(pipe, capsys):
    pipe(**small())
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(desc="denoising")
    pipe(**small())
    assert "denoising" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pil", "float", "uint8", "chw", "bfloat16", "array"])
def test_frames_of_any_kind_are_exported(kind, tmp_path):
    values = np.zeros((4, 16, 32, 3), np.uint8)
    values[:, :, :16] = 200
    floats = values.astype(np.float32) / 255
    frames = {
        "pil": [Image.fromarray(frame) for frame in values],
        "float": list(floats),
        "uint8": list(values),
        "chw": torch.from_numpy(floats).permute(0, 3, 1, 2),
        "bfloat16": torch.from_numpy(floats).bfloat16(),
        "array": floats,
    }[kind]
    target = tmp_path / "video.mp4"
    for _ in range(2):  # an older file is replaced
        assert export_to_video(frames, target, fps=8, quality=10, bitrate=None, macro_block_size=1) == str(target)
    video = read_video(target)
    assert video.fps == 8
    assert np.abs(video.frames[:, 4:12, 4:12].astype(int) - 200).max() <= 3


def test_export_makes_a_file_of_its_own_and_refuses_nonsense(tmp_path):
    path = export_to_video([Image.new("RGB", (8, 8))])
    assert read_video(Path(path)).fps == 10
    two_sizes = [np.zeros((8, 8, 3)), np.zeros((8, 6, 3))]
    for frames in ([], [np.zeros((8, 8))], two_sizes, ["frame"], [np.full((8, 8, 3), np.nan)]):
        with pytest.raises(WRONG_TYPE):
            export_to_video(frames, tmp_path / "bad.mp4")
    with pytest.raises(UsageError, match="quality"):
        export_to_video([Image.new("RGB", (8, 8))], tmp_path / "bad.mp4", quality=11)


def test_images_are_loaded(picture):
    image = load_image(str(picture))
    assert (image.mode, image.size) == ("RGB", (40, 24))
    assert load_image(image, convert_method=lambda opened: opened.convert("L")).mode == "L"
    with pytest.raises(MediaError):
        load_image("absent.png")
    with pytest.raises(WRONG_TYPE):
        load_image(3)

"""diffusers' Euler scheduler: for scripts that make or step one themselves. Our pipeline reads only its sigmas."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..checkpoints.diffusers import VERSION, read_json, write_json
from ..errors import UsageError
from ..hub import Access
from . import pretrained
from .records import Config, Output, arguments_of

FILE = "scheduler_config.json"
RHO = 7.0  # Karras 2022, section 3
LAST_ALPHA = 2.0**-24  # the last of alphas_cumprod where the terminal signal is rescaled to nothing: almost 0


@dataclasses.dataclass
class EulerDiscreteSchedulerOutput(Output):
    """The latents after a step, and the estimate of the clean ones that it was made with."""

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None


class EulerDiscreteScheduler:
    """Noise levels of a generation, and one Euler step between two of them.

    With the released configuration: Karras 2022, equation 5, from 700 to 0.002 and then 0. Raises UsageError for
    settings that it does not know, and for `use_beta_sigmas`, which would need SciPy.
    """

    order = 1

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        interpolation_type: str = "linear",
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        timestep_type: Literal["discrete", "continuous"] = "discrete",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
    ) -> None:
        self.config = Config(
            _class_name="EulerDiscreteScheduler",
            _diffusers_version=VERSION,
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=None if trained_betas is None else [float(beta) for beta in trained_betas],
            prediction_type=prediction_type,
            interpolation_type=interpolation_type,
            use_karras_sigmas=use_karras_sigmas,
            use_exponential_sigmas=use_exponential_sigmas,
            use_beta_sigmas=use_beta_sigmas,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            timestep_spacing=timestep_spacing,
            timestep_type=timestep_type,
            steps_offset=steps_offset,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
            final_sigmas_type=final_sigmas_type,
        )
        _check(self.config)
        self.betas = _betas(self.config)
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.cumprod(self.alphas, dim=0)
        if rescale_betas_zero_snr:
            self.alphas_cumprod[-1] = LAST_ALPHA
        self.num_inference_steps: int | None = None
        training = self._training_sigmas()
        steps = torch.arange(num_train_timesteps - 1, -1, -1, dtype=torch.float32)
        self._set(torch.from_numpy(training[::-1].copy()), steps, None)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changes: Any) -> EulerDiscreteScheduler:
        """One of this configuration, also that of another class; `changes` are arguments that replace its own."""
        return cls(**arguments_of(cls, config, changes))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        subfolder: str | None = None,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool | None = None,
        force_download: bool = False,
        **changes: Any,
    ) -> EulerDiscreteScheduler:
        """The scheduler of a model's folder (`subfolder="scheduler"`), or of its own; `changes` as in from_config."""
        access = Access(cache_dir, token, bool(local_files_only), force_download)
        place = pretrained.part_folder(pretrained_model_name_or_path, subfolder, [FILE], revision, access)
        return cls.from_config(read_json(place / FILE), **changes)

    @classmethod
    def load_config(
        cls, pretrained_model_name_or_path: str | Path, subfolder: str | None = None, *, revision: str | None = None
    ) -> dict[str, Any]:
        """The configuration in a model's folder (`subfolder="scheduler"`), for from_config."""
        place = pretrained.part_folder(pretrained_model_name_or_path, subfolder, [FILE], revision, Access())
        return read_json(place / FILE)

    def save_config(self, save_directory: str | Path, push_to_hub: bool = False) -> None:
        """Write scheduler_config.json, which is all that there is."""
        self.save_pretrained(save_directory, push_to_hub)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False) -> None:
        """Write scheduler_config.json."""
        pretrained.check_saving(push_to_hub=push_to_hub)
        write_json(Path(save_directory) / FILE, self.config)

    @property
    def init_noise_sigma(self) -> Float[Tensor, ""]:
        """The deviation of the first latents: noise of the first level, over data of unit deviation where it leads."""
        largest = self.sigmas.max()
        return (largest**2 + 1) ** 0.5 if self.config.timestep_spacing == "leading" else largest

    @property
    def step_index(self) -> int | None:
        """How many steps were taken; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The step to begin with; None where the first timestep that is used tells it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin with this step, whatever timestep is used first."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        """Choose the noise levels by their number, by training steps, or exactly.

        sigmas: taken as they are. The last is where the steps end, so that n + 1 levels are n steps, and only a list
        that ends with 0 ends without noise. Raises UsageError unless exactly one of the three is given.
        """
        given = sum(value is not None for value in (num_inference_steps, timesteps, sigmas))
        if given != 1:
            raise UsageError(f"{given} of num_inference_steps, timesteps and sigmas are given; expected exactly one.")
        training = self._training_sigmas()
        if sigmas is not None:
            levels = np.asarray(sigmas, dtype=np.float64)
            steps = _nearest_steps(levels[:-1].astype(np.float32), training)
        else:
            steps = self._spaced(num_inference_steps or 0) if timesteps is None else self._given(timesteps)
            body = self._levels(steps, training)
            if self.config.use_karras_sigmas or self.config.use_exponential_sigmas:
                steps = _nearest_steps(body, training)
            last = training[0] if self.config.final_sigmas_type == "sigma_min" else 0.0
            levels = np.append(body, last)
        self.num_inference_steps = len(steps) if num_inference_steps is None else num_inference_steps
        self._set(torch.from_numpy(levels), torch.from_numpy(np.asarray(steps)), device)

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """Latents as the network takes them, of unit deviation. The first call finds the step of `timestep`."""
        return sample / ((self.sigmas[self._current(timestep)] ** 2 + 1) ** 0.5)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> EulerDiscreteSchedulerOutput | tuple[Tensor, Tensor]:
        """Go from one noise level to the next, in float32. Source: Karras 2022, algorithm 2 without correction.

        Raises UsageError for an index in place of one of `timesteps`, and behind the last step.
        """
        if isinstance(timestep, int) or (isinstance(timestep, Tensor) and not timestep.is_floating_point()):
            raise UsageError(f"timestep is {timestep}, an index; expected one of scheduler.timesteps.")
        index = self._current(timestep)
        if index + 1 >= len(self.sigmas):
            raise UsageError(f"all {index} steps were taken; expected set_timesteps before another.")
        sigma, below = self.sigmas[index], self.sigmas[index + 1]
        churn = self._churn(sigma, s_churn, s_tmin, s_tmax)
        x, raised = _churned(model_output, sample.float(), sigma, churn, s_noise, generator)
        clean = self._clean(model_output, x, sigma, raised)
        moved = (x + (x - clean) / raised * (below - raised)).to(model_output.dtype)
        self._step_index = index + 1
        return EulerDiscreteSchedulerOutput(moved, clean) if return_dict else (moved, clean)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Clean latents with noise of the levels that belong to `timesteps`, one a sample."""
        sigma = self.sigmas.to(original_samples)[self._indices(timesteps)]
        return original_samples + noise * sigma.reshape(-1, *(1,) * (original_samples.ndim - 1))

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """The step of a timestep; where two have the same, the second. Raises UsageError for one that is not there."""
        schedule = self.timesteps if schedule_timesteps is None else schedule_timesteps
        found = (schedule == torch.as_tensor(timestep).to(schedule.device)).nonzero().flatten().tolist()
        if not found:
            raise UsageError(f"timestep is {timestep}; expected one of scheduler.timesteps.")
        return found[1] if len(found) > 1 else found[0]

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def _set(self, levels: Tensor, steps: Tensor, device: str | torch.device | None) -> None:
        self.sigmas = levels.float()
        if self.num_inference_steps is None:  # the training levels come without the final 0
            self.sigmas = torch.cat([self.sigmas, torch.zeros(1)])
        if self._is_continuous():
            steps = 0.25 * self.sigmas[:-1].log()
        self.timesteps = steps.float().to(device)
        self._step_index: int | None = None
        self._begin_index: int | None = None

    def _is_continuous(self) -> bool:
        return self.config.timestep_type == "continuous" and self.config.prediction_type == "v_prediction"

    def _training_sigmas(self) -> np.ndarray:
        return (((1 - self.alphas_cumprod) / self.alphas_cumprod) ** 0.5).numpy()

    def _given(self, timesteps: Sequence[int]) -> np.ndarray:
        config = self.config
        if config.use_karras_sigmas or config.use_exponential_sigmas or self._is_continuous():
            raise UsageError("timesteps are given, but this configuration sets its own; expected a number or sigmas.")
        return np.asarray(timesteps, dtype=np.float32)

    def _spaced(self, count: int) -> np.ndarray:
        """Training steps at even distances, falling. Source: Lin 2023, table 2."""
        total = self.config.num_train_timesteps
        if not 1 <= count <= total:
            raise UsageError(f"num_inference_steps is {count}; expected 1 to {total}.")
        if self.config.timestep_spacing == "linspace":
            return np.linspace(0, total - 1, count, dtype=np.float32)[::-1].copy()
        if self.config.timestep_spacing == "leading":
            return (np.arange(count) * (total // count))[::-1].astype(np.float32) + self.config.steps_offset
        return np.arange(total, 0, -total / count).round().astype(np.float32) - 1

    def _levels(self, steps: np.ndarray, training: np.ndarray) -> np.ndarray:
        count = len(steps)
        if self.config.interpolation_type == "linear":
            levels = np.interp(steps, np.arange(len(training)), training)
        else:
            ends = np.log(training[-1]), np.log(training[0])
            levels = torch.linspace(float(ends[0]), float(ends[1]), count + 1).exp().numpy()
        low = self.config.sigma_min if self.config.sigma_min is not None else float(levels[-1])
        high = self.config.sigma_max if self.config.sigma_max is not None else float(levels[0])
        if self.config.use_karras_sigmas:
            ramp, start, end = np.linspace(0, 1, count), high ** (1 / RHO), low ** (1 / RHO)
            return (start + ramp * (end - start)) ** RHO
        if self.config.use_exponential_sigmas:
            return np.exp(np.linspace(math.log(high), math.log(low), count))
        return levels

    def _current(self, timestep: float | Tensor) -> int:
        """The step to take; the first call finds it by its timestep, unless it was set."""
        if self._step_index is None:
            begin = self._begin_index
            self._step_index = self.index_for_timestep(timestep) if begin is None else begin
        return self._step_index

    def _indices(self, timesteps: Tensor) -> list[int]:
        if self._begin_index is None:
            return [self.index_for_timestep(timestep) for timestep in timesteps]
        return [self._begin_index if self._step_index is None else self._step_index] * len(timesteps)

    def _churn(self, sigma: Tensor, s_churn: float, s_tmin: float, s_tmax: float) -> float:
        return min(s_churn / (len(self.sigmas) - 1), math.sqrt(2) - 1) if s_tmin <= sigma <= s_tmax else 0.0

    def _clean(self, output: Tensor, x: Tensor, sigma: Tensor, raised: Tensor) -> Tensor:
        if self.config.prediction_type == "epsilon":
            return x - raised * output
        if self.config.prediction_type == "v_prediction":
            return output * (-sigma / (sigma**2 + 1) ** 0.5) + x / (sigma**2 + 1)
        return output


def levels_of_other(scheduler: Any, asked: Mapping[str, Any], device: torch.device) -> Float[Tensor, " n"]:
    """The noise levels of a scheduler that is not ours, each once; of its solver nothing is used.

    Raises UsageError where it has none, or does not take what is asked for.
    """
    kind = type(scheduler).__name__
    try:
        scheduler.set_timesteps(**asked, device=device)
    except (TypeError, ValueError, AttributeError) as error:
        name = next(iter(asked))
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{kind} does not take {name} ({reason}); expected an EulerDiscreteScheduler.") from None
    levels = getattr(scheduler, "sigmas", None)
    if levels is None:
        raise UsageError(f"{kind} has no sigmas, the noise levels; expected an EulerDiscreteScheduler.")
    # Solvers with two calls a step list their levels twice.
    return torch.unique_consecutive(torch.as_tensor(levels).float().cpu())


def _churned(
    output: Tensor, x: Tensor, sigma: Tensor, churn: float, noise_scale: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Raise the noise level a little. Source: Karras 2022, algorithm 2, lines 4 to 6."""
    raised = sigma * (churn + 1)
    if churn <= 0:
        return x, raised
    device = output.device if generator is None else generator.device
    noise = torch.randn(output.shape, generator=generator, device=device, dtype=output.dtype).to(output.device)
    return x + noise_scale * noise * (raised**2 - sigma**2) ** 0.5, raised


def _nearest_steps(levels: np.ndarray, training: np.ndarray) -> np.ndarray:
    """The training steps between which each level lies, interpolated in its logarithm."""
    logs = np.log(training)
    return np.interp(np.log(np.maximum(levels, 1e-10)), logs, np.arange(len(logs)))


def _betas(config: Config) -> Tensor:
    count = config.num_train_timesteps
    if config.trained_betas is not None:
        betas = torch.tensor(config.trained_betas, dtype=torch.float32)
    elif config.beta_schedule == "linear":
        betas = torch.linspace(config.beta_start, config.beta_end, count)
    elif config.beta_schedule == "scaled_linear":
        betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, count) ** 2
    else:
        betas = _cosine_betas(count)
    return _without_terminal_signal(betas) if config.rescale_betas_zero_snr else betas


def _cosine_betas(count: int) -> Tensor:
    """Source: Nichol 2021, equation 17, with betas of at most 0.999."""
    kept = [math.cos((step / count + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(count + 1)]
    return torch.tensor([min(1 - after / before, 0.999) for before, after in itertools.pairwise(kept)])


def _without_terminal_signal(betas: Tensor) -> Tensor:
    """Betas whose last level is pure noise. Source: Lin 2023, algorithm 1."""
    roots = torch.cumprod(1 - betas, dim=0).sqrt()
    shifted = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    kept = shifted**2
    return 1 - torch.cat([kept[:1], kept[1:] / kept[:-1]])


def _check(config: Config) -> None:
    choices = {
        "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
        "prediction_type": ("epsilon", "sample", "original_sample", "v_prediction"),
        "interpolation_type": ("linear", "log_linear"),
        "timestep_spacing": ("linspace", "leading", "trailing"),
        "timestep_type": ("discrete", "continuous"),
        "final_sigmas_type": ("zero", "sigma_min"),
    }
    for name, known in choices.items():
        if config[name] not in known:
            raise UsageError(f"{name} is {config[name]!r}; expected one of {', '.join(known)}.")
    if config.use_beta_sigmas:
        raise UsageError("use_beta_sigmas is on; expected Karras or exponential sigmas, or neither.")
    if config.use_karras_sigmas and config.use_exponential_sigmas:
        raise UsageError("use_karras_sigmas and use_exponential_sigmas are both on; expected at most one.")

"""A network compiled by region, and on CUDA recorded as one graph where starting its kernels would take the time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..nn.regions import Backend, Regions, first_line, is_of_compiler

# Estimates of fewer operations are recorded: they take some 25 ms of a large card, and starting their kernels one by
# one (over a thousand, at 5 to 10 microseconds each) as long. Of longer ones the starts hide behind the work.
RECORDED_OPERATIONS = 12e12
# Operations of the released U-Net for each parameter and latent pixel: 80 TFLOP for 1.52e9 and 25 x 72 x 128 of them.
OPERATIONS_EACH = 0.23

Network = Callable[[Tensor, Tensor], Tensor]
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


@runtime_checkable
class Recorder(Protocol):
    """Records work of a device, so that it can be done again with one start."""

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """A call that does the work of `run` again on the same tensors, and the tensor that it writes its result to.

        Raises RuntimeError where the work cannot be recorded.
        """
        ...


class CudaRecorder:
    """Records into CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Run once to compile and to choose kernels, which a recording must not hold, then record."""
        with torch.cuda.device(self._device):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                run()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                made = run()
        return graph.replay, made


class Compiled:
    """How the networks of one model are compiled on one device."""

    def __init__(self, device: torch.device, backend: Backend = "inductor", recorder: Recorder | None = None) -> None:
        """`recorder` stands for the device's own; only CUDA has one."""
        self._regions = Regions(backend)
        self._recorder = recorder or (CudaRecorder(device) if device.type == "cuda" else None)

    @property
    def failure(self) -> str | None:
        """What the compiler said where it failed; nothing is compiled since."""
        return self._regions.failure

    def around(self, run: Callable[[bool], Result]) -> Result:
        """As Regions.around."""
        return self._regions.around(run)

    def replayed(self, network: Network, unet: nn.Module) -> Network:
        """The network of one generation, recorded where that pays, for as long as its weights stay where they are."""
        if self._recorder is None:
            return network
        return Replayed(network, self._recorder, sum(parameter.numel() for parameter in unet.parameters()))


class Replayed:
    """A network that is recorded at its first call with a size, and then repeated.

    It is called plainly where an estimate is long, and for good where recording fails, which is logged once.
    """

    def __init__(self, network: Network, recorder: Recorder, parameters: int) -> None:
        self._network = network
        self._recorder: Recorder | None = recorder
        self._parameters = parameters
        self._recorded: dict[object, _Recording] = {}

    def __call__(self, x: Float[Tensor, "b t c h w"], c_noise: Float[Tensor, " b"]) -> Float[Tensor, "b t c2 h w"]:
        """As the network's. The result is a tensor of its own."""
        if self._recorder is None or not pays(self._parameters, x):
            return self._network(x, c_noise)
        key = (x.shape, x.dtype, c_noise.dtype)
        if key not in self._recorded and not self._record(key, self._recorder, x, c_noise):
            return self._network(x, c_noise)
        return self._recorded[key](x, c_noise)

    def _record(self, key: object, recorder: Recorder, x: Tensor, c_noise: Tensor) -> bool:
        inputs = x.clone(), c_noise.clone()
        try:
            again, made = recorder.record(lambda: self._network(*inputs))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if is_of_compiler(error):
                raise
            self._recorder = None
            logger.warning("recording a graph failed, and the generation goes on without: %s", first_line(error))
            return False
        self._recorded[key] = _Recording(inputs, again, made)
        return True


class _Recording:
    """Recorded work, and the tensors that it reads and writes."""

    def __init__(self, inputs: tuple[Tensor, Tensor], again: Callable[[], None], made: Tensor) -> None:
        self._inputs = inputs
        self._again = again
        self._made = made

    def __call__(self, *inputs: Tensor) -> Tensor:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._again()
        return self._made.clone()


def pays(parameters: int, x: Float[Tensor, "b t c h w"]) -> bool:
    """Whether an estimate of these latents is so short that it is worth recording."""
    pixels = x.shape[0] * x.shape[1] * x.shape[3] * x.shape[4]
    return OPERATIONS_EACH * parameters * pixels < RECORDED_OPERATIONS

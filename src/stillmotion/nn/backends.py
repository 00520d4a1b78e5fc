"""Which of torch's kernels attends on a GPU: measured once for each kind of call, and kept.

torch takes the first that can, in an order of its own, which is not the fastest for every shape and card. All of them
give the same up to rounding. So that a video does not depend on the moment, a choice stays once it is made.
"""

from __future__ import annotations

import dataclasses
import statistics
import warnings
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# torch's own choice, and each of its kernels alone.
DEFAULT = "default"
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# Another kernel than torch's own has to be so much faster: less would be chosen by chance.
MARGIN = 0.95
# The plain formula holds all scores; where they are more, it is not tried.
MAX_SCORE_BYTES = 2**28
REPEATS = 5

# Seconds that one call takes on the device.
Timer = Callable[[Callable[[], Tensor]], float]


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A kind of call: calls whose numbers of rows, queries and keys lie between the same powers of two are alike."""

    device: str
    dtype: str
    rows: int
    queries: int
    keys: int
    width: int

    def __str__(self) -> str:
        """The name under which a choice is kept."""
        return f"{self.device}|{self.dtype}|{self.rows}|{self.queries}|{self.keys}|{self.width}"


class Choices:
    """Measures with a timer, and remembers."""

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self._chosen: dict[str, str] = {}

    @property
    def chosen(self) -> Mapping[str, str]:
        """The kernel of each case that was met or is remembered."""
        return dict(self._chosen)

    def remember(self, chosen: Mapping[str, str]) -> None:
        """Take over choices of an earlier process; unknown kernels are left out, and what is measured already stays."""
        known = {case: name for case, name in chosen.items() if name == DEFAULT or name in BACKENDS}
        self._chosen = known | self._chosen

    def of(self, q: Float[Tensor, "rows h n d"], k: Float[Tensor, "rows h m d"], v: Float[Tensor, "rows h m d"]) -> str:
        """The kernel for such a call, measured on these tensors at the first of its kind."""
        case = str(case_of(q, k))
        if case not in self._chosen:
            self._chosen[case] = self._fastest(q, k, v)
        return self._chosen[case]

    def _fastest(self, q: Tensor, k: Tensor, v: Tensor) -> str:
        scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * 4
        names = [name for name in BACKENDS if name != "math" or scores <= MAX_SCORE_BYTES]
        times = {name: seconds for name in names if (seconds := self._seconds(name, q, k, v)) is not None}
        own = self._seconds(DEFAULT, q, k, v)
        best = min(times, key=lambda name: times[name], default=DEFAULT)
        return best if best in times and (own is None or times[best] < MARGIN * own) else DEFAULT

    def _seconds(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> float | None:
        """None where the kernel cannot do it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch gives its reasons for refusing as warnings
            try:
                return self._timer(lambda: attend_by(name, q, k, v))
            except RuntimeError:  # also where this kernel alone needs more memory than there is
                return None


def case_of(q: Float[Tensor, "rows h n d"], k: Float[Tensor, "rows h m d"]) -> Case:
    """The kind of a call."""
    # Names hold spaces and dots, and never the sign that separates the parts.
    device = torch.cuda.get_device_name(q.device) if q.is_cuda else q.device.type
    dtype = str(q.dtype).removeprefix("torch.")
    rows, queries, keys = (size.bit_length() for size in (q.shape[0] * q.shape[1], q.shape[2], k.shape[2]))
    return Case(device, dtype, rows, queries, keys, q.shape[3])


def attend_by(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by one of the kernels. Raises RuntimeError where it cannot do it."""
    if name == DEFAULT:
        return F.scaled_dot_product_attention(q, k, v)
    with sdpa_kernel(BACKENDS[name]):
        return F.scaled_dot_product_attention(q, k, v)


def _seconds_on_cuda(run: Callable[[], Tensor]) -> float:
    """The median of some calls, after one that warms up."""
    run()
    found = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1000)
    return statistics.median(found)


# Of this process: kernels do not change while it lives.
CHOICES = Choices(_seconds_on_cuda)


@torch.library.custom_op("stillmotion::attend", mutates_args=(), schema="(Tensor q, Tensor k, Tensor v) -> Tensor")
def attend_fastest(q, k, v):  # type: ignore[no-untyped-def]  # torch reads the annotations of an operation itself
    """Attention by the kernel that was fastest for such a call; one operation, which compiled code does not look into.

    On other devices than CUDA, and for a kind of call that is met first while a graph is recorded, torch's own choice.
    """
    name = DEFAULT
    if q.is_cuda and (str(case_of(q, k)) in CHOICES.chosen or not torch.cuda.is_current_stream_capturing()):
        name = CHOICES.of(q, k, v)
    return attend_by(name, q, k, v).transpose(1, 2).contiguous().transpose(1, 2)


@attend_fastest.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows, heads, queries, width = q.shape
    return q.new_empty(rows, queries, heads, width).transpose(1, 2)

"""Where work runs: in processes of this machine, or on a Ray cluster. The only importer of ray.

An engine takes jobs, calls `work(job)` for each in some worker, and yields every job with its answer, in the order in
which they end. A worker that dies costs its own job alone, whose answer is then a Lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from ..errors import StillmotionError
from ..evaluation.opencv import cv2
from .stage import ONE_CORE, Needs

Job = TypeVar("Job")
Answer = TypeVar("Answer")
EngineName = Literal["local", "ray"]
# Each worker is one thread wide: the libraries' own threads would only take the cores from other workers.
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
GRACE_S = 5.0
MAX_JOBS_A_WORKER = 2000  # then a fresh process takes over, so that no decoder's leak can grow without end


@dataclasses.dataclass(frozen=True, slots=True)
class Lost:
    """A job without an answer: its worker died, took too long, or raised what nobody expected."""

    reason: Literal["crashed", "timeout", "out_of_memory"]
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class Crew:
    """How many workers, what each takes from its machine, and how long one job may last in seconds."""

    workers: int
    needs: Needs = ONE_CORE
    timeout_s: float = 3600.0


def run_here(work: Callable[[Job], Answer], jobs: Iterable[Job]) -> Iterator[tuple[Job, Answer | Lost]]:
    """In this process, one after the other: for looking closely. A crash ends everything."""
    for job in jobs:
        yield job, answered(work, job)


def answered(work: Callable[[Job], Answer], job: Job) -> Answer | Lost:
    """The edge where what nobody expected becomes an answer."""
    try:
        return work(job)
    except MemoryError:
        return Lost("out_of_memory", "The work on this video needs more memory than there is.")
    except Exception as error:
        # An OSError names a path, which is another one on every machine.
        said = str(error.strerror) if isinstance(error, OSError) else " ".join(str(error).split())[:300]
        return Lost("crashed", f"The work on this video ended with {type(error).__name__}: {said}")


def answered_alone(work: Callable[[Job], Answer], job: Job) -> Answer | Lost:
    """The same in a worker, one thread wide: OpenCV would take as many as the machine has cores."""
    cv2.setNumThreads(1)
    return answered(work, job)


def run_local(
    work: Callable[[Job], Answer], jobs: Iterable[Job | None], crew: Crew
) -> Iterator[tuple[Job, Answer | Lost]]:
    """In processes of this machine, started fresh, one job at a time each.

    `jobs` is asked for the next one whenever a worker is free, and may give None while others are
    at work, to say that there is none just now.
    Closing the iterator, or an exception in it, ends all workers.
    """
    return _driven(_Pool(work, crew), jobs)


def run_on_ray(
    work: Callable[[Job], Answer], jobs: Iterable[Job | None], crew: Crew
) -> Iterator[tuple[Job, Answer | Lost]]:
    """On Ray, on the cluster that RAY_ADDRESS names or else on this machine; every node must see the same folders.

    Each job is a task with the crew's needs; `jobs` is as for `run_local`. Raises StillmotionError without ray.
    """
    return _driven(_RayTasks(_ray(), work, crew), jobs)


@runtime_checkable
class _Hands(Protocol[Job, Answer]):
    """Workers of some kind."""

    def has_room(self) -> bool: ...
    def is_busy(self) -> bool: ...
    def give(self, job: Job) -> None: ...
    def collect(self) -> list[tuple[Job, Answer | Lost]]: ...
    def close(self) -> None: ...


def _driven(hands: _Hands[Job, Answer], jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Answer | Lost]]:
    feed = iter(jobs)
    is_open = True
    try:
        while True:
            is_open = is_open and _fill(hands, feed)
            if not hands.is_busy():
                return
            yield from hands.collect()
    finally:
        hands.close()


def _fill(hands: _Hands[Job, Any], feed: Iterator[Job | None]) -> bool:
    """Give every free worker a job; False once there are no more jobs."""
    while hands.has_room():
        job = next(feed, _END)
        if job is _END:
            return False
        if job is None:
            return True
        hands.give(job)
    return True


_END: Any = object()


@dataclasses.dataclass(slots=True, eq=False)
class _Worker(Generic[Job]):
    process: BaseProcess
    pipe: Connection
    job: Job | None = None
    since: float = 0.0
    jobs_done: int = 0


class _Pool(Generic[Job, Answer]):
    def __init__(self, work: Callable[[Job], Answer], crew: Crew) -> None:
        self._work, self._crew = work, crew
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker[Job]] = []

    def has_room(self) -> bool:
        return sum(worker.job is not None for worker in self._workers) < self._crew.workers

    def is_busy(self) -> bool:
        return any(worker.job is not None for worker in self._workers)

    def give(self, job: Job) -> None:
        worker = next((each for each in self._workers if each.job is None), None) or self._started()
        try:
            worker.pipe.send(job)
        except OSError:  # it died while it was idle, which no job is to blame for
            self._remove(worker)
            worker = self._started()
            worker.pipe.send(job)
        worker.job, worker.since = job, time.monotonic()

    def collect(self) -> list[tuple[Job, Answer | Lost]]:
        """Wait for at least one answer, death or timeout, a second at most."""
        busy = [worker for worker in self._workers if worker.job is not None]
        ready = wait([each for worker in busy for each in (worker.pipe, worker.process.sentinel)], timeout=1.0)
        found: list[tuple[Job, Answer | Lost]] = []
        for worker in busy:
            answer = self._answer(worker, worker.pipe in ready or worker.process.sentinel in ready)
            if answer and worker.job is not None:
                found.append((worker.job, answer[0]))
                worker.job = None
                worker.jobs_done += 1
                if isinstance(answer[0], Lost) or worker.jobs_done >= MAX_JOBS_A_WORKER:
                    self._remove(worker)
        return found

    def close(self) -> None:
        for worker in list(self._workers):
            self._remove(worker)

    def _answer(self, worker: _Worker[Job], is_ready: bool) -> tuple[Answer | Lost] | None:
        """What came of a job, in a tuple of its own; None while it is at work."""
        if is_ready:
            try:
                if worker.pipe.poll():
                    return (worker.pipe.recv(),)
            except (EOFError, OSError):
                pass
            worker.process.join(GRACE_S)
            return (Lost("crashed", _obituary(worker.process.exitcode)),)
        if time.monotonic() - worker.since > self._crew.timeout_s:
            return (Lost("timeout", f"The work on this video took more than {self._crew.timeout_s:g} s."),)
        return None

    def _started(self) -> _Worker[Job]:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._work, there), daemon=True)
        with _environment(), _deaf():
            process.start()
        there.close()
        worker = _Worker[Job](process, here)
        self._workers.append(worker)
        return worker

    def _remove(self, worker: _Worker[Job]) -> None:
        self._workers.remove(worker)
        worker.pipe.close()
        if worker.process.is_alive():
            worker.process.kill()
        worker.process.join(GRACE_S)


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """A worker's life: jobs in, answers out, until the pipe closes or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        answer = answered_alone(work, job)
        try:
            pipe.send(answer)
        except OSError:
            return


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _obituary(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        return f"The process that worked on this video was ended by {name}."
    return f"The process that worked on this video ended with code {code}."


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """While a worker starts: Ctrl-C is the parent's to answer from the worker's first line on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _environment:
    """While a worker starts: one thread for the libraries that read their number from the environment."""

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))

    def __exit__(self, *exception: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise StillmotionError(
            "Ray is missing; expected it to be there after `pip install stillmotion[cluster]`."
        ) from None
    return ray


def _told_resources(resources: Mapping[str, float]) -> str:
    memory = resources.get("memory", 0) / 1024**3
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs and {memory:.1f} GiB for tasks"


class _RayTasks(Generic[Job, Answer]):
    def __init__(self, ray: Any, work: Callable[[Job], Answer], crew: Crew) -> None:
        self._ray, self._crew = ray, crew
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        needs = crew.needs
        options = {"num_cpus": needs.cpus, "memory": needs.memory_mb * 1024**2, "max_retries": 0}
        if needs.gpus:
            options["num_gpus"] = needs.gpus
        self._needs = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory_mb * 1024**2}
        if self._capacity() < 1:
            raise StillmotionError(
                f"the Ray cluster has {_told_resources(ray.cluster_resources())}, and one video needs "
                f"{_told_resources(self._needs)}; expected a cluster with room for it."
            )
        self._call = ray.remote(**options)(answered_alone)
        self._work = ray.put(work)
        self.running: dict[Any, tuple[Job, float]] = {}

    def has_room(self) -> bool:
        # No more than can run at once: a job that waits in Ray's queue would be late before it began.
        return len(self.running) < min(self._crew.workers, max(1, self._capacity()))

    def is_busy(self) -> bool:
        return bool(self.running)

    def _capacity(self) -> int:
        """Jobs that the cluster as it is now has room for."""
        there = self._ray.cluster_resources()
        return min(int(there.get(name, 0) / need + 1e-6) for name, need in self._needs.items() if need)

    def give(self, job: Job) -> None:
        self.running[self._call.remote(self._work, job)] = (job, time.monotonic())

    def collect(self) -> list[tuple[Job, Answer | Lost]]:
        done, _ = self._ray.wait(list(self.running), num_returns=1, timeout=1.0)
        late = [
            task
            for task, (_, since) in self.running.items()
            if task not in done and time.monotonic() - since > self._crew.timeout_s
        ]
        found: list[tuple[Job, Answer | Lost]] = [(self.running.pop(task)[0], self._answer(task)) for task in done]
        for task in late:
            self._ray.cancel(task, force=True)
            lost = Lost("timeout", f"The work on this video took more than {self._crew.timeout_s:g} s.")
            found.append((self.running.pop(task)[0], lost))
        return found

    def close(self) -> None:
        for task in self.running:
            self._ray.cancel(task, force=True)
        self.running.clear()

    def _answer(self, task: Any) -> Answer | Lost:
        errors = self._ray.exceptions
        try:
            return self._ray.get(task)
        except errors.OutOfMemoryError:
            return Lost("out_of_memory", "The work on this video needs more memory than there is.")
        except errors.RayError as error:
            return Lost("crashed", f"The process that worked on this video died: {type(error).__name__}.")

"""Workers that die, hang or raise cost one job each, and nothing else."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.process import BaseProcess

import pytest

from stillmotion.curation.execute import Crew, Lost, run_here, run_local

# The jobs are programs: what a worker runs must be found by name in a fresh process, and eval is everywhere.
DIES = "__import__('os').kill(__import__('os').getpid(), 9)"
HANGS = "__import__('time').sleep(600)"
RAISES = "{}['nothing']"
OUT_OF_MEMORY = "bytearray(1 << 62)"
PID = "__import__('os').getpid()"
THREADS = "__import__('cv2').getNumThreads()"


def answers(jobs: list[str | None], workers: int = 2, timeout_s: float = 60.0) -> dict[str, object]:
    return dict(run_local(eval, jobs, Crew(workers, timeout_s=timeout_s)))


@pytest.fixture(scope="module")
def mixed() -> dict[str, object]:
    return answers(["1 + 1", DIES, "None", RAISES, OUT_OF_MEMORY, "2 + 2", PID, f"{PID} + 0"])


def test_every_job_has_an_answer(mixed: dict[str, object]) -> None:
    assert len(mixed) == 8
    assert (mixed["1 + 1"], mixed["2 + 2"], mixed["None"]) == (2, 4, None)


def test_work_is_in_other_processes(mixed: dict[str, object]) -> None:
    assert os.getpid() not in (mixed[PID], mixed[f"{PID} + 0"])


def test_workers_are_one_thread_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FOR_THREADS_NUM", "4")  # whatever the machine, a fresh process would take four
    assert answers([THREADS], workers=1) == {THREADS: 1}


def test_a_dead_worker_costs_its_own_job(mixed: dict[str, object]) -> None:
    lost = mixed[DIES]
    assert isinstance(lost, Lost) and lost.reason == "crashed" and "SIGKILL" in lost.detail


def test_what_nobody_expected_is_an_answer(mixed: dict[str, object]) -> None:
    lost, full = mixed[RAISES], mixed[OUT_OF_MEMORY]
    assert isinstance(lost, Lost) and lost.reason == "crashed" and "KeyError" in lost.detail
    assert isinstance(full, Lost) and full.reason == "out_of_memory"


def test_a_job_that_hangs_is_given_up() -> None:
    started = time.monotonic()
    found = answers([HANGS, "3"], workers=1, timeout_s=1.0)
    assert isinstance(found[HANGS], Lost) and found[HANGS].reason == "timeout"
    assert found["3"] == 3
    assert time.monotonic() - started < 30


def test_ctrl_c_is_the_parents_from_a_workers_first_line_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before, heard, start = signal.getsignal(signal.SIGINT), [], BaseProcess.start

    def spied(process: BaseProcess) -> None:
        heard.append(signal.getsignal(signal.SIGINT))  # which a fresh process inherits where it is to be ignored
        start(process)

    monkeypatch.setattr(BaseProcess, "start", spied)
    assert answers(["1"], workers=1) == {"1": 1}
    assert heard == [signal.SIG_IGN] and signal.getsignal(signal.SIGINT) == before


def test_none_means_not_now() -> None:
    assert answers(["1", None, "2", None, "3"], workers=3) == {"1": 1, "2": 2, "3": 3}


def test_closing_ends_every_worker() -> None:
    running = run_local(eval, [PID, HANGS, HANGS], Crew(2))
    _, pid = next(running)
    running.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # type: ignore[arg-type]


def test_an_error_names_no_path() -> None:
    ((_, lost),) = run_here(open, ["/nowhere/at/all"])
    assert isinstance(lost, Lost) and "/nowhere" not in lost.detail

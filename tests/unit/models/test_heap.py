"""Freed tensors go back to the system where that was asked for, and only there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Eight tensors of 20 MB, each with a small one behind it that lives on, as kernels do that are compiled meanwhile. The
# first free raises glibc's own bound, so that it would keep the others in its heap.
PROGRAM = """
import contextlib, ctypes, json, sys, torch
from stillmotion.models.heap import blocks_given_back

def resident():
    return next(int(l.split()[1]) / 1000 for l in open("/proc/self/status") if l.startswith("VmRSS"))

def left_behind():
    kept, before = [], resident()
    for _ in range(2):
        blocks = []
        for _ in range(8):
            blocks.append(torch.ones(5_000_000))
            kept.append(torch.ones(2_000))
        blocks.clear()
        del blocks
    return resident() - before

class Info(ctypes.Structure):  # mallinfo2 of malloc.h; the fourth is the number of blocks that are mapped
    _fields_ = [(str(i), ctypes.c_size_t) for i in range(10)]

def mapped_by_a_tensor():
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Info
    before = getattr(ask(), "3")
    tensor = torch.ones(5_000_000)
    return getattr(ask(), "3") - before

torch.ones(7_000_000)
given_back = blocks_given_back() if sys.argv[1] == "inside" else contextlib.nullcontext()
with given_back:
    found = {"left": left_behind(), "mapped": mapped_by_a_tensor()}
found["mapped later"] = mapped_by_a_tensor()
print(json.dumps(found))
"""


def found_in_a_process(where: str) -> dict[str, float]:
    """Each in a process of its own: holes of before would take the tensors, whatever the bound."""
    result = subprocess.run([sys.executable, "-c", PROGRAM, where], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these switches")
def test_large_tensors_leave_nothing_behind_inside_and_the_usual_outside():
    inside, outside = found_in_a_process("inside"), found_in_a_process("outside")
    assert inside["left"] < 10 and inside["mapped"] == 1
    assert outside["left"] > 80 and outside["mapped"] == 0  # or else the line above measures nothing
    assert inside["mapped later"] == outside["mapped later"] == 0

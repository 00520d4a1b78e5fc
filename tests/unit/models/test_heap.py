"""Freed tensors go back to the system where that was asked for, and only there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Eight tensors of 20 MB, each with a small one behind it that lives on, as kernels do that are compiled meanwhile. The
# first free raises glibc's own bound, so that it would keep the others in its heap.
PROGRAM = """
import ctypes, json, torch
from stillmotion.models.heap import blocks_given_back, trim

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
found = {"usual": left_behind()}
trim()
with blocks_given_back():
    found["inside"] = left_behind()
    found["mapped inside"] = mapped_by_a_tensor()
found["mapped outside"] = mapped_by_a_tensor()
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these switches")
def test_large_tensors_leave_nothing_behind_inside_and_the_usual_outside():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert found["usual"] > 80  # or else the next measures nothing
    assert found["inside"] < 10
    assert found["mapped inside"] == 1 and found["mapped outside"] == 0

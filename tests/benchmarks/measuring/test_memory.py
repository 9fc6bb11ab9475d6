"""Memory of this process and of a GPU that a program plays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from measuring.memory import gpu_mib, host_mib, host_peak_mib

# The kernel may take pages from a large process meanwhile, so it is a small one.
PROGRAM = """
print("small", flush=True)
input()
array = bytearray(b"1") * (64 << 20)
print("large", flush=True)
input()
del array
print("small", flush=True)
input()
"""


def test_a_large_array_shows_and_stays_in_the_peak() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        found = []
        assert process.stdin is not None
        assert process.stdout is not None
        for word in ("small", "large", "small"):
            assert process.stdout.readline() == f"{word}\n"
            found.append((host_mib(process.pid), host_peak_mib(process.pid)))
            process.stdin.write("\n")
            process.stdin.flush()
    (before, _), (large, peak), (after, peak_after) = found
    assert 60 < large - before < 70
    assert peak > large - 1  # the kernel counts in steps
    assert after < peak - 50
    assert peak_after > peak - 1


def test_a_gpu_that_nvidia_smi_knows_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_mib(0) is None
    tool.write_text('#!/bin/sh\n[ "$4" = 1 ] && echo 1234\n')
    tool.chmod(0o755)
    assert gpu_mib(1) == 1234
    assert gpu_mib(0) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")  # CUDA's first GPU is nvidia-smi's fourth
    assert gpu_mib(1) == 1234
    assert gpu_mib(0) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_mib(0) == 1234

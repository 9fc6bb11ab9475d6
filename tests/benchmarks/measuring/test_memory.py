"""Memory of this process and of a GPU that a program plays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from measuring.memory import gpu_mib, host_mib, host_peak_mib


def test_a_large_array_shows_and_stays_in_the_peak() -> None:
    before = host_mib()
    array = np.ones(64 << 20, np.uint8)
    assert host_mib() - before > 60
    peak = host_peak_mib()
    assert peak > host_mib() - 1  # the kernel counts in steps
    del array
    assert host_mib() < peak - 50
    assert host_peak_mib() > peak - 1


def test_a_gpu_that_nvidia_smi_knows_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_mib(0) is None
    tool.write_text('#!/bin/sh\n[ "$4" = 1 ] && echo 1234\n')
    tool.chmod(0o755)
    assert gpu_mib(1) == 1234
    assert gpu_mib(0) is None

"""Memory of this process, and of a GPU as a whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

_MIB = 1 << 20


def host_mib(process: int | str = "self") -> float:
    """MiB that a process has in memory now (resident set)."""
    pages = int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def host_peak_mib(process: int | str = "self") -> float:
    """MiB that a process had in memory at most so far."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text("ascii"))
    return int(found[1]) / 1024 if found else 0.0


def smi_name(index: int) -> str:
    """What nvidia-smi calls CUDA's GPU `index`: a number or a UUID, of `CUDA_VISIBLE_DEVICES` where that is set."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[index] if index < len(visible) else str(index)


def gpu_mib(index: int) -> float | None:
    """MiB in use on CUDA's GPU `index`, by all processes together; None where nvidia-smi doesn't say."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    query = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", smi_name(index)]
    text = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return float(text) if text.isdigit() else None

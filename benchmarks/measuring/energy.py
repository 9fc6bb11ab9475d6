"""Energy in joules, where the machine has a sensor: RAPL, nvidia-smi, or the INA3221 of a Jetson."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from measuring.memory import smi_name

SYSTEM = Path("/sys")
_PERIOD_S = 0.05  # between two samples of power


class Sensor(Protocol):
    """Something that counts energy."""

    name: str

    def joules(self) -> float:
        """A count that only grows; differences are energy."""

    def close(self) -> None:
        """Stop counting. May be called twice."""


@dataclass
class Rapl:
    """The energy counter of a CPU package in `/sys/class/powercap`, which wraps around."""

    folder: Path
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"RAPL {(self.folder / 'name').read_text('ascii').strip()}"
        self._range = int((self.folder / "max_energy_range_uj").read_text("ascii"))
        self._last, self._sum = self._read(), 0

    def _read(self) -> int:
        return int((self.folder / "energy_uj").read_text("ascii"))

    def joules(self) -> float:
        """See `Sensor`; must be called more often than the counter wraps around (minutes)."""
        now = self._read()
        self._sum += (now - self._last) % self._range
        self._last = now
        return self._sum / 1e6

    def close(self) -> None:
        """Do nothing."""


class _Power:
    """Power in watts added up over time, from samples that arrive in another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watts, self._joules, self._since = 0.0, 0.0, time.monotonic()

    def put(self, watts: float) -> None:
        with self._lock:
            now = time.monotonic()
            self._joules += self._watts * (now - self._since)
            self._watts, self._since = watts, now

    def joules(self) -> float:
        with self._lock:
            return self._joules + self._watts * (time.monotonic() - self._since)


class Sampled:
    """A sensor of power, read every 50 ms by a thread."""

    def __init__(self, name: str, watts: Callable[[], float]) -> None:
        self.name, self._watts, self._power = name, watts, _Power()
        self._power.put(watts())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            with contextlib.suppress(OSError, ValueError):  # one sample less
                self._power.put(self._watts())

    def joules(self) -> float:
        """See `Sensor`."""
        return self._power.joules()

    def close(self) -> None:
        """See `Sensor`."""
        self._stop.set()
        self._thread.join()


_POWER = ("power.draw.instant", "power.draw")  # the second is the mean of the last second since Ampere


class NvidiaSmi:
    """Power of a GPU, which a running nvidia-smi prints every 50 ms.

    Args:
        tool: nvidia-smi.
        index: Of the GPU, as CUDA counts: with `CUDA_VISIBLE_DEVICES`, the one that this names.
        field: What to ask for, of `_POWER`.
    """

    def __init__(self, tool: str, index: int, field: str = _POWER[0]) -> None:
        gpu = smi_name(index)
        averaged = "" if field == _POWER[0] else ", averaged over a second: turns of contenders blur"
        self.name, self._power = f"nvidia-smi GPU {gpu}{averaged}", _Power()
        query = [f"--query-gpu={field}", "--format=csv,noheader,nounits", "-i", gpu, "-lms", "50"]
        self._process = subprocess.Popen([tool, *query], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        try:
            self._power.put(float(first))
        except ValueError:
            self.close()
            raise OSError(f"nvidia-smi says {first.strip()!r} of the power") from None
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                self._power.put(float(line))

    def joules(self) -> float:
        """See `Sensor`."""
        return self._power.joules()

    def close(self) -> None:
        """See `Sensor`."""
        self._process.kill()
        self._process.wait()


def find_sensors(gpu: int | None) -> list[Sensor]:
    """The sensors that can be read here; `gpu` is the index of the GPU in use, if one is."""
    sensors: list[Sensor] = []
    for folder in sorted(SYSTEM.glob("class/powercap/intel-rapl:[0-9]")):
        with contextlib.suppress(OSError, ValueError):  # from Linux 5.10 on, only root may read them
            sensors.append(Rapl(folder))
    for folder in sorted(SYSTEM.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*")):
        sensors += _rails(folder)
    if gpu is not None and (tool := shutil.which("nvidia-smi")) is not None:
        for field in _POWER:
            with contextlib.suppress(OSError):
                sensors.append(NvidiaSmi(tool, gpu, field))
                break
    return sensors


def _rails(folder: Path) -> Iterator[Sensor]:
    """The total of a Jetson's rails, `VDD_IN`, or each rail where it has none: millivolts times milliamperes."""
    labels = {path.read_text("ascii").strip(): path.name[2:-6] for path in sorted(folder.glob("in[0-9]_label"))}
    wanted = {"VDD_IN": labels["VDD_IN"]} if "VDD_IN" in labels else labels
    for label, number in wanted.items():
        volts, amperes = folder / f"in{number}_input", folder / f"curr{number}_input"
        with contextlib.suppress(OSError, ValueError):
            yield Sampled(f"INA3221 {label}", partial(_product, volts, amperes))


def _product(millivolts: Path, milliamperes: Path) -> float:
    return int(millivolts.read_text("ascii")) * int(milliamperes.read_text("ascii")) / 1e6


class EnergyMeter:
    """Joules that the sensors count in the turns of one contender; a `Meter` of `take_turns`."""

    def __init__(self, sensors: list[Sensor]) -> None:
        self._sensors = sensors
        self._began: list[float] = []
        self.joules = {sensor.name: 0.0 for sensor in sensors}

    def start(self) -> None:
        """A turn begins."""
        self._began = [sensor.joules() for sensor in self._sensors]

    def stop(self) -> None:
        """It has ended."""
        for sensor, began in zip(self._sensors, self._began, strict=True):
            self.joules[sensor.name] += sensor.joules() - began

"""Sensors of energy, as files and programs that play them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from measuring import energy
from measuring.energy import EnergyMeter, Rapl, find_sensors


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(energy, "SYSTEM", tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    return tmp_path


def _rapl(system: Path, number: int, name: str) -> Path:
    folder = system / "class" / "powercap" / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    for file, text in (("name", name), ("max_energy_range_uj", "1000000"), ("energy_uj", "900000")):
        (folder / file).write_text(text + "\n")
    return folder


def test_a_counter_that_wraps_around(system: Path) -> None:
    folder = _rapl(system, 0, "package-0")
    _rapl(system, 1, "psys")
    (system / "class" / "powercap" / "intel-rapl:0:0").mkdir()  # a part of the first
    first, second = find_sensors(None)
    assert (first.name, second.name) == ("RAPL package-0", "RAPL psys")
    assert first.joules() == 0
    (folder / "energy_uj").write_text("100000")
    assert first.joules() == pytest.approx(0.2)
    meter = EnergyMeter([first, second])
    for level in ("300000", "400000"):
        meter.start()
        (folder / "energy_uj").write_text(level)
        meter.stop()
        (folder / "energy_uj").write_text("350000")  # between turns
    assert meter.joules == pytest.approx({"RAPL package-0": 0.25, "RAPL psys": 0})


def test_a_counter_that_only_root_may_read_is_none(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _rapl(system, 0, "package-0")

    def refuse(self: Rapl) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Rapl, "_read", refuse)
    assert find_sensors(None) == []


def test_the_total_of_a_jetsons_rails(system: Path) -> None:
    folder = system / "bus" / "i2c" / "drivers" / "ina3221" / "1-0040" / "hwmon" / "hwmon3"
    folder.mkdir(parents=True)
    for number, label in ((1, "VDD_CPU_GPU_CV"), (2, "VDD_IN")):
        for file, text in (
            (f"in{number}_label", label),
            (f"in{number}_input", "5000"),
            (f"curr{number}_input", "2000"),
        ):
            (folder / file).write_text(text)
    (sensor,) = find_sensors(None)
    assert sensor.name == "INA3221 VDD_IN"
    began, joules = time.monotonic(), sensor.joules()
    time.sleep(0.12)
    spent = sensor.joules() - joules
    assert spent == pytest.approx(10 * (time.monotonic() - began), rel=0.2)  # 5 V times 2 A
    sensor.close()
    sensor.close()


def test_nvidia_smi_is_followed_while_it_runs(system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nwhile echo 40.0; do sleep 0.02; done\n")
    tool.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(tool))
    assert find_sensors(None) == []  # no GPU is in use
    (sensor,) = find_sensors(0)
    began, joules = time.monotonic(), sensor.joules()
    time.sleep(0.12)
    assert sensor.joules() - joules == pytest.approx(40 * (time.monotonic() - began), rel=0.2)
    assert sensor.name == "nvidia-smi GPU 0"
    sensor.close()
    averaged = "*drawGPU-7) while echo 30.0; do sleep 0.02; done;;"
    tool.write_text(f'#!/bin/sh\ncase "$1$4" in *instant*) echo N/A;; {averaged} esac\n')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5, GPU-7")
    (sensor,) = find_sensors(1)  # an older driver
    assert sensor.name == "nvidia-smi GPU GPU-7, averaged over a second: turns of contenders blur"
    sensor.close()
    tool.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert find_sensors(0) == []

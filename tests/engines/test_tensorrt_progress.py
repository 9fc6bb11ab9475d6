from __future__ import annotations

from types import SimpleNamespace

import pytest

from sharpose.engines.tensorrt.build import progress_monitor
from sharpose.engines.tensorrt.library import TensorRtFlavour


@pytest.fixture
def flavour():
    return TensorRtFlavour("tensorrt", "10.3.0", SimpleNamespace(IProgressMonitor=object))


def test_a_phase_fills_the_step_of_the_phase_around_it(flavour):
    told = []
    monitor = progress_monitor(flavour, "fine", told.append)

    def fraction():
        return told[-1].fraction

    monitor.phase_start("build", None, 4)
    monitor.step_complete("build", 0)
    assert fraction() == 0.25
    monitor.phase_start("optimize", "build", 2)
    monitor.step_complete("optimize", 0)
    assert fraction() == 0.375
    monitor.phase_start("time", "optimize", 4)
    monitor.step_complete("time", 1)
    assert fraction() == 0.25 + 0.25 * 0.75
    monitor.phase_finish("time")
    monitor.phase_finish("optimize")
    assert fraction() == 0.5
    monitor.step_complete("build", 1)
    assert fraction() == 0.5
    monitor.phase_finish("build")
    assert fraction() == 1


def test_the_fraction_never_falls(flavour):
    told = []
    monitor = progress_monitor(flavour, "fine", told.append)
    monitor.phase_start("build", None, 2)
    monitor.phase_start("a", "build", 2)
    monitor.step_complete("a", 1)
    assert told[-1].fraction == 0.5
    monitor.phase_start("a", "build", 10)  # the same name once more, for the same step
    monitor.step_complete("a", 0)
    assert told[-1].fraction == 0.5
    monitor.step_complete("unknown", 3)
    monitor.phase_finish("unknown")
    monitor.phase_start("empty", "build", 0)
    assert told[-1].fraction == 0.5


def test_the_callback_is_told(flavour):
    told = []
    monitor = progress_monitor(flavour, "fine", told.append)
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0)
    monitor.phase_finish("build")
    assert [(item.stage, item.phase, item.fraction) for item in told] == [
        ("fine", "build", 0.0),
        ("fine", "build", 0.5),
        ("fine", "build", 1.0),
    ]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_a_callback_that_raises_stops_the_build_and_is_kept(flavour, failure):
    def fail(progress):
        raise failure

    monitor = progress_monitor(flavour, "fine", fail)
    monitor.phase_start("build", None, 2)
    assert not monitor.step_complete("build", 0)
    assert isinstance(monitor.failure, failure)

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sharpose.engines.tensorrt.library import TensorRtFlavour
from sharpose.engines.tensorrt.progress import PhaseTree, progress_monitor


def test_a_phase_fills_the_step_of_the_phase_around_it():
    tree = PhaseTree()
    tree.start("build", None, 4)
    tree.step("build", 0)
    assert tree.fraction == 0.25
    tree.start("optimize", "build", 2)
    tree.step("optimize", 0)
    assert tree.fraction == 0.375
    tree.start("time", "optimize", 4)
    tree.step("time", 1)
    assert tree.fraction == 0.25 + 0.25 * 0.75
    tree.finish("time")
    tree.finish("optimize")
    assert tree.fraction == 0.5
    tree.step("build", 1)
    assert tree.fraction == 0.5
    tree.finish("build")
    assert tree.fraction == 1


def test_the_fraction_never_falls():
    tree = PhaseTree()
    tree.start("build", None, 2)
    tree.start("a", "build", 2)
    tree.step("a", 1)
    assert tree.fraction == 0.5
    tree.start("a", "build", 10)  # the same name once more, for the same step
    tree.step("a", 0)
    assert tree.fraction == 0.5
    tree.step("unknown", 3)
    tree.finish("unknown")
    tree.start("empty", "build", 0)
    assert tree.fraction == 0.5


@pytest.fixture
def flavour():
    return TensorRtFlavour("tensorrt", "10.3.0", SimpleNamespace(IProgressMonitor=object))


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

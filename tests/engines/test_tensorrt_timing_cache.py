"""Kernel timings between builds, with a stand-in for the builder's configuration."""

from __future__ import annotations

import dataclasses
import logging
import shutil

import pytest
from cache_stand_ins import GPU

from sharpose.engines.tensorrt.library import TensorRtFlavour
from sharpose.engines.tensorrt.timing_cache import open_timing_cache
from sharpose.errors import EngineError

TENSORRT = TensorRtFlavour("tensorrt", "10.3.0", None)
RTX = TensorRtFlavour("tensorrt_rtx", "1.7.1", None)


class Timings:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content + b" conv1"


class Configuration:
    """Takes timings that begin as its own do, and fresh ones."""

    used = None

    def create_timing_cache(self, content):
        return Timings(content or b"timings:")

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        if not cache.content.startswith(b"timings:"):
            return False
        self.used = cache
        return True


def _build(folder, given=None, gpu=GPU, flavour=TENSORRT):
    configuration = Configuration()
    with open_timing_cache(flavour, given, folder, gpu) as cache:
        assert cache is not None
        cache.attach(configuration)
    return configuration.used.content


def test_timings_are_kept_beside_the_engines_for_each_gpu_and_version(tmp_path):
    assert _build(tmp_path) == b"timings:"
    assert _build(tmp_path) == b"timings: conv1"
    assert _build(tmp_path, gpu=dataclasses.replace(GPU, multiprocessors=76)) == b"timings:"
    assert _build(tmp_path, flavour=dataclasses.replace(TENSORRT, version="10.4.0")) == b"timings:"
    assert sorted(path.name for path in tmp_path.glob("*.cache")) == [
        "timing-10.3.0-NVIDIA-GeForce-RTX-4090-8.9-128.cache",
        "timing-10.3.0-NVIDIA-GeForce-RTX-4090-8.9-76.cache",
        "timing-10.4.0-NVIDIA-GeForce-RTX-4090-8.9-128.cache",
    ]


def test_timings_of_our_own_that_are_refused_are_replaced(tmp_path):
    _build(tmp_path)
    (file,) = tmp_path.glob("*.cache")
    file.write_bytes(b"of another version")
    assert _build(tmp_path) == b"timings:"
    assert file.read_bytes() == b"timings: conv1"


def test_a_file_that_the_user_names_must_be_taken(tmp_path):
    given = tmp_path / "given.cache"
    assert _build(tmp_path, given) == b"timings:"
    assert _build(tmp_path, given) == b"timings: conv1"
    assert [path.name for path in tmp_path.iterdir()] == ["given.cache"]
    given.write_bytes(b"of another version")
    with pytest.raises(
        EngineError, match=r"given\.cache: TensorRT refuses it \(made by another version or for another GPU"
    ):
        _build(tmp_path, given)
    assert given.read_bytes() == b"of another version"
    with pytest.raises(EngineError, match="can't be read"):
        _build(tmp_path, tmp_path)


def test_a_folder_that_can_not_be_written_is_refused_before_the_build(tmp_path):
    built = []

    def build(given):
        with open_timing_cache(TENSORRT, given, tmp_path, GPU):
            built.append(given)

    (tmp_path / "file").touch()
    for given in (tmp_path / "none" / "given.cache", tmp_path / "file" / "given.cache"):
        with pytest.raises(EngineError, match=r"--timing-cache .*given\.cache: can't be written there \(No"):
            build(given)
    assert built == []


def test_a_disk_that_fails_after_the_build_costs_the_timings_alone(tmp_path, caplog):
    folder, configuration = tmp_path / "there", Configuration()
    folder.mkdir()
    with caplog.at_level(logging.WARNING), open_timing_cache(TENSORRT, folder / "given.cache", tmp_path, GPU) as cache:
        cache.attach(configuration)
        shutil.rmtree(folder)
    (record,) = caplog.records
    assert "given.cache: can't be written, so the next build measures kernels again (" in record.getMessage()


def test_a_build_that_fails_writes_no_timings(tmp_path):
    def fail():
        with open_timing_cache(TENSORRT, None, tmp_path, GPU) as cache:
            cache.attach(Configuration())
            raise EngineError("no kernel")

    with pytest.raises(EngineError, match="no kernel"):
        fail()
    assert list(tmp_path.glob("*.cache")) == []


def test_rtx_measures_nothing(tmp_path):
    with open_timing_cache(RTX, None, tmp_path, None) as cache:
        assert cache is None
    assert list(tmp_path.iterdir()) == []

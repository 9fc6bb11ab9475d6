import errno
import importlib.metadata
import inspect
import json
import re
import sys
from pathlib import Path

import pytest

from sharpose import errors

ALL = [item for _, item in inspect.getmembers(errors, inspect.isclass) if item.__module__ == errors.__name__]


@pytest.mark.parametrize("error", ALL)
def test_all_are_of_one_family_and_exit_with_an_agreed_code(error):
    assert issubclass(error, errors.SharposeError)
    failed = (
        errors.SinkError,
        errors.OutputRemovedError,
        errors.ReceiverLostError,
        errors.TrainingError,
        errors.ServerError,
        errors.ServerGoneError,
        errors.ServerBusyError,
    )
    expected = {errors.ParityError: 1, errors.ReaderGoneError: 141, **dict.fromkeys(failed, 3)}.get(error, 2)
    assert error.exit_code == expected
    assert error("what was wrong").exit_code == expected


def test_the_family_is_complete():
    names = {item.__name__ for item in ALL}
    assert {
        "ConfigError",
        "CheckpointError",
        "BundleError",
        "ExportError",
        "EngineError",
        "InputError",
        "SourceError",
    } <= names


def test_counts():
    found = [errors.counted(number, noun) for number in (0, 1, 2) for noun in ("frame", "box", "person", "entry")]
    assert " ".join(found) == (
        "0 frames 0 boxes 0 people 0 entries 1 frame 1 box 1 person 1 entry 2 frames 2 boxes 2 people 2 entries"
    )


def test_the_command_that_installs_a_checkouts_extras():
    checkout = Path(errors.__file__).resolve().parent.parent
    assert errors.how_to_install("cpu,train") == f'pip install "{checkout}[cpu,train]"'


@pytest.mark.parametrize("kind", ["checkout", "gone", "index", "not installed"])
def test_the_command_that_installs_an_installed_packages_extras(monkeypatch, tmp_path, kind):
    checkout = tmp_path / "my checkout"
    if kind == "checkout":
        (checkout / "sharpose").mkdir(parents=True)
        (checkout / "setup.cfg").touch()

    class Installed:
        def read_text(self, name):
            assert name == "direct_url.json"
            return None if kind == "index" else json.dumps({"url": checkout.as_uri(), "dir_info": {}})

    def distribution(name):
        if kind == "not installed":
            raise importlib.metadata.PackageNotFoundError(name)
        return Installed()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages" / "sharpose" / "errors.py"))
    named, unknown = f'pip install "{checkout}[cpu]"', 'in a checkout of SHaRPose, pip install ".[cpu]"'
    assert errors.how_to_install("cpu") == (named if kind == "checkout" else unknown)


def test_no_text_sends_a_reader_to_an_index_where_the_name_is_not_ours():
    root = Path(__file__).resolve().parents[2]
    folders = ("sharpose", "engines", "runtime", "export", "training", "configs", "examples", "benchmarks", "docs")
    files = [root / "README.md", root / "CONTRIBUTING.md", root / "Makefile"]
    files += [
        file for folder in folders for file in (root / folder).rglob("*") if file.suffix in (".py", ".md", ".yaml")
    ]
    by_name = re.compile(
        r"""(?:pipx?|uv|uvx)\b(?! wheel)(?![^\n]*--no-index)[^\n]*[\s"'`]sharpose(?:\[|[<>=]=|["'`\s]*$)"""
    )
    assert by_name.search('pip install "sharpose[cpu]"')
    assert by_name.search("uv pip install sharpose")
    assert not by_name.search('pip install --no-index --find-links wheels "sharpose[cpu]"')
    found = [
        f"{file}: {line}" for file in files for line in file.read_text("utf-8").splitlines() if by_name.search(line)
    ]
    assert not found


@pytest.mark.parametrize(
    ("gone", "named"), [(["yaml"], "yaml"), (["yaml", "torch", "matplotlib.figure"], "yaml, torch and matplotlib")]
)
def test_all_packages_that_are_missing_are_named_at_once(monkeypatch, gone, named):
    for module in gone:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.ConfigError) as caught:
        errors.require_packages("x", ["json", *gone], "train", errors.ConfigError)
    assert str(caught.value) == f"x needs {named}: {errors.how_to_install('train')}"
    errors.require_packages("x", ["json"], "train", errors.ConfigError)


@pytest.mark.parametrize(
    ("platform", "number", "gone"),
    [("linux", errno.EPIPE, True), ("linux", errno.EINVAL, False), ("win32", errno.EINVAL, True), ("win32", 28, False)],
)
def test_a_reader_that_has_gone_is_told_as_the_system_says_it(monkeypatch, platform, number, gone):
    monkeypatch.setattr(sys, "platform", platform)
    assert errors.reader_has_gone(OSError(number, "words")) == gone

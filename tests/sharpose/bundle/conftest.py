"""For the tests of bundles: one that may be changed, and how it is changed."""

from __future__ import annotations

import json
import shutil

import pytest

from sharpose.bundle import MANIFEST_NAME, open_bundle
from sharpose.errors import BundleError
from sharpose.files import file_sha256

WEIGHTS = bytes(range(256)) * 8


@pytest.fixture
def bundle(nano_bundle, tmp_path):
    """The nano bundle with less to copy as its weights: what is opened here is hashed, not run."""
    folder = tmp_path / "bundle"
    shutil.copytree(nano_bundle, folder, ignore=shutil.ignore_patterns("weights.bin"))
    (folder / "weights.bin").write_bytes(WEIGHTS)
    rehash(folder, "weights.bin")
    assert open_bundle(folder).manifest.files["weights.bin"] == file_sha256(folder / "weights.bin")
    return folder


@pytest.fixture(scope="session")
def values(nano_bundle):
    """What `bundle.json` of the nano bundle says; to be copied before it is changed."""
    return json.loads((nano_bundle / MANIFEST_NAME).read_text())


def edit(bundle, change):
    values = json.loads((bundle / "bundle.json").read_text())
    change(values)
    (bundle / "bundle.json").write_text(json.dumps(values))


def rehash(bundle, *names):
    edit(bundle, lambda values: values["files"].update({name: file_sha256(bundle / name) for name in names}))


def refused(path, *words):
    with pytest.raises(BundleError) as found:
        open_bundle(path)
    message = str(found.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


def copy(values):
    return json.loads(json.dumps(values))


def at(values, path):
    for part in path:
        values = values[part]
    return values

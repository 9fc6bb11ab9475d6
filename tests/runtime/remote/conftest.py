"""A server that runs the nano bundle's engines, for a module's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from v2_server import V2Server, served_by_engines, v2_server


@pytest.fixture(scope="module")
def _engines(nano_bundle: Path) -> Iterator[V2Server]:
    with v2_server(**served_by_engines(nano_bundle)) as server:
        yield server


@pytest.fixture
def server(_engines: V2Server) -> V2Server:
    _engines.requests, _engines.acts = [], []
    return _engines

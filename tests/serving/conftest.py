"""Fixtures of a server of poses: a real Triton, and what stands in for its Python backend."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

if TYPE_CHECKING:
    from types import ModuleType

    from measuring.triton_server import TritonHome, TritonServer


@pytest.fixture(scope="session")
def triton_home() -> TritonHome:
    """A tritonserver and its Python; skips the test, with the reason, where they can't be had."""
    from measuring.triton_server import NoTritonError, TritonHome

    try:
        return TritonHome()
    except NoTritonError as error:
        pytest.skip(f"no tritonserver: {error}")


@pytest.fixture(scope="session")
def start_triton(
    triton_home: TritonHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., TritonServer]]:
    """Starts a tritonserver on a repository, with more options if given; `ready=False`: one that ends by itself;
    `packages`: a folder of Python packages that come before its own.
    """
    from measuring.triton_server import TritonServer

    servers: list[TritonServer] = []

    def start(repository: Path, *options: str, packages: Path | None = None, ready: bool = True) -> TritonServer:
        log = tmp_path_factory.mktemp("triton") / "log.txt"
        server = TritonServer(triton_home, repository, log, options, packages)
        servers.append(server)
        server.start(ready=ready)
        return server

    yield start
    for server in servers:
        server.kill()  # at once: on SIGTERM, Triton 2.51 waits for its exit timeout


@pytest.fixture(scope="session")
def product_repository(made_once: Callable[..., Path]) -> Path:
    """The shipped bundle as the `product` layout, with results that can be repeated: one person a batch, one thread."""
    from sharpose.bundle import open_bundle, shipped_bundle
    from sharpose.serving.repository import write_repository

    def make(folder: Path) -> None:
        write_repository(open_bundle(shipped_bundle()), folder, "product")
        edit_parameters(folder, batch="1", threads="1")

    return made_once("triton_product", make)


def edit_parameters(repository: Path, **values: str) -> None:
    """Change parameters of the served model, as a user edits its configuration."""
    from sharpose.serving.repository import CONFIG_PATH

    path = repository / CONFIG_PATH
    lines = path.read_text().splitlines()
    for name, value in values.items():
        (place,) = (index for index, line in enumerate(lines) if line.startswith(f'parameters {{ key: "{name}"'))
        lines[place] = f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}'
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def triton_server(start_triton: Callable[..., TritonServer], product_repository: Path) -> TritonServer:
    """A running tritonserver that serves the shipped bundle, one person a batch on one thread (see `--batch 1`)."""
    return start_triton(product_repository)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What stands in for `triton_python_backend_utils`."""
    from triton_stand_in import make_backend

    module = make_backend()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    return module


@pytest.fixture(scope="session")
def crops() -> npt.NDArray[np.uint8]:
    """uint8 [6, 256, 192, 3]: blocks of colour, all different."""
    blocks = np.random.default_rng(0).integers(0, 256, (6, 16, 12, 3), np.uint8)
    return np.ascontiguousarray(blocks.repeat(16, axis=1).repeat(16, axis=2))


@pytest.fixture(scope="session")
def estimate_locally() -> Iterator[Callable[..., dict[str, npt.NDArray[Any]]]]:
    """The outputs of the served model from the shipped bundle's engines here, on one thread, in batches of `batch`."""
    from sharpose.bundle import open_bundle, shipped_bundle
    from sharpose.engines.load import load_two_stage
    from sharpose.tokens import gather_patches

    bundle = open_bundle(shipped_bundle())
    stages = load_two_stage(bundle, threads=1)

    def estimate(
        crops: npt.NDArray[np.uint8], thresholds: npt.NDArray[np.float32], batch: int
    ) -> dict[str, npt.NDArray[Any]]:
        parts = []
        for start in range(0, len(crops), batch):
            chunk = crops[start : start + batch]
            stages.crops[: len(chunk)] = chunk
            coarse = stages.run_coarse(len(chunk))
            keypoints, quality, order = (
                values.copy() for values in (coarse.keypoints, coarse.quality, coarse.region_order)
            )
            refined = quality < thresholds[start : start + batch, 0]
            rows = np.flatnonzero(refined).astype(np.int32)
            if len(rows):
                gather_patches(stages.crops, rows, order, bundle.model.num_selected, stages.patches)
                keypoints[rows] = stages.run_fine(rows)
            parts.append((keypoints, quality[:, None], refined[:, None], order))
        names = ("keypoints", "quality", "refined", "region_order")
        return {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}

    yield estimate
    stages.close()

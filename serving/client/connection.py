"""A connection to a server, whatever it speaks, and what it answers about crops, checked before anybody uses it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from sharpose.errors import ServerError, ServerGoneError
from sharpose.serving.contract import KEYPOINTS, QUALITY, REFINED, REGION_ORDER, ServedModel, ServedTensor

NOT_LISTENING = "start the server, or give its port: Triton's own are 8000 for HTTP and 8001 for gRPC"
NO_SUCH_NAME = "give a name that this machine knows, or the address in numbers"
NO_WAY_THERE = "look at host and port, and at networks and firewalls between"
"""Remedies for a connection that can't be made."""
_MENDS_EMPTY = (
    "the server's Python backend can't read arrays of numpy 2: install numpy<2 in the Python that runs the model, "
    "or take a newer Triton"
)


class ConnectionClosedError(ServerGoneError):
    """The server has closed the connection. A kept one is closed by a restart, or a gateway that finds it idle."""


class WrongServerError(ServerGoneError):
    """What answers may be no server of poses at all.

    At first contact that is final. Later it may be a gateway that speaks for a server which is about to come back.
    """


@dataclass(frozen=True)
class Tensor:
    """An output as it came over the wire; `data` is None where it came as JSON."""

    datatype: str
    shape: tuple[int, ...]
    data: memoryview | None


@dataclass(frozen=True)
class Answer:
    """The outputs by name, and the version of the model that made them."""

    version: str
    outputs: Mapping[str, Tensor]


class Connection(Protocol):
    """One connection; a thread at a time may use it.

    All that fails raises `ServerBusyError` (no room), `ServerGoneError` (another try may succeed),
    `ServerRefusedError` (no other try will), or `ServerError` (nonsense), without the server's name.
    """

    @property
    def used(self) -> bool:
        """Whether this very connection has had an answer, so that the same server is at its other end."""

    def config(self, timeout: float) -> Mapping[str, Any]:
        """The model's configuration, as Triton writes it in JSON, within `timeout` seconds."""

    def infer(
        self,
        crops: npt.NDArray[np.uint8],
        thresholds: npt.NDArray[np.float32],
        wanted: Sequence[ServedTensor],
        timeout: float,
    ) -> Answer:
        """The outputs `wanted` for crops uint8 [N, H, W, 3] and thresholds float32 [N, 1], within `timeout` seconds."""

    def answered(self, timeout: float) -> int:
        """Requests for poses, of all clients, that the model has answered with some; asked within `timeout` seconds."""

    def interrupt(self) -> None:
        """End a request that is under way in another thread."""

    def close(self) -> None:
        """May be called twice."""


@dataclass(frozen=True)
class CropPoses:
    """The poses of N crops.

    Attributes:
        keypoints: float32 [N, J, 3], `x, y` in crop pixels, score.
        quality: float32 [N], predicted quality of the coarse pose.
        refined: bool [N], whether the fine stage ran.
        region_order: int32 [N, R], regions, most relevant first; None where it wasn't asked for.
    """

    keypoints: npt.NDArray[np.float32]
    quality: npt.NDArray[np.float32]
    refined: npt.NDArray[np.bool_]
    region_order: npt.NDArray[np.int32] | None


def outputs_wanted(*, regions: bool) -> tuple[ServedTensor, ...]:
    """The outputs to ask for."""
    return (KEYPOINTS, QUALITY, REFINED, *([REGION_ORDER] if regions else []))


def read_poses(
    found: Mapping[str, Tensor], model: ServedModel, crops: int, wanted: Sequence[ServedTensor]
) -> CropPoses:
    """The poses that a server's outputs hold.

    Args:
        found: The outputs by name.
        model: Whose they are.
        crops: N, how many were sent.
        wanted: The outputs that were asked for.

    Raises:
        ServerError: an output is missing, of another dtype or shape, cut short, or not finite.
    """
    arrays = {output: _read(output, found, (crops, *model.dims(output))) for output in wanted}
    for output in (KEYPOINTS, QUALITY):
        if not np.isfinite(arrays[output]).all():
            raise ServerError(f"{output.name}: expected finite numbers, got NaN or infinity", "see the server's log")
    order = arrays.get(REGION_ORDER)
    if order is not None and not ((order >= 0) & (order < model.regions)).all():
        raise ServerError(f"{REGION_ORDER.name}: expected 0 to {model.regions - 1}, got {order.min()} to {order.max()}")
    return CropPoses(
        cast("npt.NDArray[np.float32]", arrays[KEYPOINTS]),
        cast("npt.NDArray[np.float32]", arrays[QUALITY][:, 0]),
        cast("npt.NDArray[np.bool_]", arrays[REFINED][:, 0]),
        cast("npt.NDArray[np.int32] | None", order),
    )


def _read(output: ServedTensor, found: Mapping[str, Tensor], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    name, tensor = output.name, found.get(output.name)
    if tensor is None:
        raise ServerError(f"{name}: expected this output, got {', '.join(found) or 'none'}")
    if (tensor.datatype, tensor.shape) != (output.datatype, shape):
        raise ServerError(
            f"{name}: expected {output.datatype} {list(shape)}, got {tensor.datatype} {list(tensor.shape)}"
        )
    if tensor.data is None:
        raise ServerError(f"{name}: expected binary data, got JSON", "give the address of a Triton server")
    kind = np.dtype(output.dtype).newbyteorder("<")
    size = math.prod(shape) * kind.itemsize
    if tensor.data.nbytes != size:
        remedy = "" if tensor.data.nbytes else _MENDS_EMPTY
        raise ServerError(f"{name}: expected {size} bytes, got {tensor.data.nbytes}", remedy)
    if output is REFINED and (np.frombuffer(tensor.data, np.uint8) > 1).any():
        raise ServerError(f"{name}: expected bytes of 0 and 1, got others")
    return np.frombuffer(tensor.data, kind).reshape(shape)

"""A connection to a server, whatever it speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sharpose.errors import ServerGoneError
from sharpose.serving.contract import ServedTensor


NOT_LISTENING = "start the server, or give its port: Triton's own are 8000 for HTTP and 8001 for gRPC"
NO_SUCH_NAME = "give a name that this machine knows, or the address in numbers"
NO_WAY_THERE = "look at host and port, and at networks and firewalls between"
"""Remedies for a connection that can't be made."""


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
    ) -> Mapping[str, Tensor]:
        """The outputs `wanted` for crops uint8 [N, H, W, 3] and thresholds float32 [N, 1], within `timeout` seconds."""

    def interrupt(self) -> None:
        """End a request that is under way in another thread."""

    def close(self) -> None:
        """May be called twice."""

"""`--serve`: one HTTP server a process, one sink a stream."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

from sharpose.errors import InputError
from sharpose.runtime.frames import SourceHealth
from sharpose.runtime.serve.address import Address, is_loopback, parse_address
from sharpose.runtime.serve.sink import ServeSink
from sharpose.runtime.serve.streams import Streams

__all__ = ["ServeServer"]

_POLL = 0.1  # seconds until it is noticed that the server should end


class ServeServer:
    """Serves the page and its pictures and numbers until it is closed.

    `/` is the page; `/snapshot.jpg[?stream=NAME]` the newest annotated picture; `/state.json` the page's numbers;
    `/metrics` the same for Prometheus; `/healthz` is 200 while all is well and 503, with the reason, where a live
    stream is silent or all streams have failed. Clients cost the run nothing but what their pictures cost to draw and
    encode, once each, in the clients' own threads.

    Args:
        address: `HOST:PORT`, `:PORT` or `PORT`; without a host 127.0.0.1. Port 0 takes one that is free.
        token: What clients must know; None lets everybody in who can reach the address.
        say: Told, in a line each, where the page is, and of dangers.
        silent_after: A live stream without a frame for so many seconds isn't well.
        max_clients: Connections at a time; a browser that looks needs two.
        clock: Seconds that never go back.

    Attributes:
        address: Where it listens.
        url: Of the page, without the token.

    Raises:
        InputError: the address can't be understood or listened on, the token is empty or not printable ASCII, or
            prometheus-client is not installed.
    """

    def __init__(
        self,
        address: str | Address,
        token: str | None = None,
        *,
        say: Callable[[str], None],
        silent_after: float = 10.0,
        max_clients: int = 32,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            from sharpose.runtime.serve.listener import Listener
        except ModuleNotFoundError as error:
            if error.name != "prometheus_client":
                raise
            raise InputError(
                "--serve: expected prometheus-client to be installed, found none: pip install 'sharpose[serve]'"
            ) from None
        self._clock = clock
        self._streams = Streams()
        self._listener = Listener(
            parse_address(address) if isinstance(address, str) else address,
            token=token,
            streams=self._streams,
            silent_after=silent_after,
            max_clients=max_clients,
            say=say,
        )
        self.address = self._listener.bound
        self.url = f"http://{_reachable(self.address)}/"
        self._closed = False
        self._thread = threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": _POLL}, name="serve", daemon=True
        )
        self._thread.start()
        say(f"serving {self.url}" + ("" if token is None else "?token=…"))
        if token is None and not is_loopback(self.address.host):
            say(
                f"warning: --serve {self.address}: everybody who can reach this address can watch; "
                "give --serve-token, or bind 127.0.0.1"
            )

    def sink(self, stream: str, *, live: bool = False, health: SourceHealth | None = None) -> ServeSink:
        """A sink that shows one stream.

        Args:
            stream: What the page calls it, without a password; a number is added where another stream has the name.
            live: `Source.live`: silence, from now on, means trouble.
            health: `Source.health`, read until the first record brings its own.
        """
        name = self._streams.free_name(stream)
        health = SourceHealth() if health is None else health
        sink = ServeSink(name, self.url, live=live, health=health, clock=self._clock)
        self._streams.add(sink)
        return sink

    def close(self) -> None:
        """Stop at once, whoever is connected. May be called twice."""
        if self._closed:
            return
        self._closed = True
        for sink in self._streams.all():
            sink.picture.close()
        self._listener.close()
        self._thread.join()


def _reachable(address: Address) -> Address:
    """The address as a browser elsewhere may write it."""
    anywhere = address.host in {"0.0.0.0", "::"}
    return Address(socket.gethostname(), address.port) if anywhere else address

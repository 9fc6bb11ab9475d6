"""The server that runs the model: its options, for `sharpose-run` and `sharpose-archive`. Imports nothing heavy."""

from __future__ import annotations

import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path

import click

from sharpose.cli import FILE, Number, attempts, option, options
from sharpose.serving.client import DEFAULT_TIMEOUT, DEFAULT_TRIES

_SECTION = "Model on a server"


@dataclass(frozen=True)
class ServerOptions:
    """The server that runs the model, instead of engines here.

    Attributes:
        server: `http://HOST:8000/sharpose`, or https, grpc, grpcs; None for engines here.
        server_token: For a gateway in front of it, as `Authorization: Bearer TOKEN`.
        server_ca: A file of certificates (PEM) to trust instead of the system's.
        server_cert: A file (PEM) with the client's certificate and key.
        server_timeout: Seconds for a request, from connecting to the end of the answer.
        server_tries: Tries of a request that a server which is gone, fails or is late gets; `FOREVER` for no limit.
    """

    server: str | None = None
    server_token: str | None = None
    server_ca: Path | None = None
    server_cert: Path | None = None
    server_timeout: float = DEFAULT_TIMEOUT
    server_tries: int = DEFAULT_TRIES

    def __post_init__(self) -> None:
        if self.server is not None:
            return
        token = self.server_token is not None and "SHARPOSE_SERVER_TOKEN" not in os.environ
        for name, is_given in (
            ("--server-token", token),
            ("--server-ca", self.server_ca is not None),
            ("--server-cert", self.server_cert is not None),
            ("--server-timeout", self.server_timeout != DEFAULT_TIMEOUT),
            ("--server-tries", self.server_tries != DEFAULT_TRIES),
        ):
            if is_given:
                raise click.UsageError(f"{name} is for --server, which isn't given")


def _tries(text: str) -> int:
    if text != "forever" and not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise click.BadParameter(f"expected a number of tries from 1, or `forever`, got {reprlib.repr(text)}")
    return attempts(text)


server_options = options(
    option(
        _SECTION,
        "--server",
        metavar="URL",
        help="Triton server that runs the model, http(s)://HOST:8000/sharpose or grpc(s)://HOST:8001, of a repository "
        "that sharpose-export --triton wrote; with --bundle, it must serve that one.",
    ),
    option(
        _SECTION,
        "--server-token",
        envvar="SHARPOSE_SERVER_TOKEN",
        metavar="TOKEN",
        help="Bearer token for a gateway before it; default: $SHARPOSE_SERVER_TOKEN, which no list of processes shows.",
    ),
    option(
        _SECTION, "--server-ca", type=FILE, metavar="FILE", help="Certificates (PEM) to trust; default: the system's."
    ),
    option(_SECTION, "--server-cert", type=FILE, metavar="FILE", help="Own certificate and key (PEM), for mutual TLS."),
    option(
        _SECTION,
        "--server-timeout",
        type=Number(0, min_open=True),
        metavar="S",
        default=DEFAULT_TIMEOUT,
        help="Seconds for a request, from connecting to the end of the answer.",
    ),
    option(
        _SECTION,
        "--server-tries",
        type=_tries,
        metavar="N|forever",
        default=str(DEFAULT_TRIES),
        help="Tries of a request when the server is gone, fails or is late, with up to 5 s between; while it is busy "
        "there is no limit. Live streams drop frames instead, and go by --reconnect.",
    ),
)
"""Declares the fields of `ServerOptions` as options of a command."""


def refuse_beside_server() -> None:
    """Refuse options of engines on this machine, even with their defaults, where a server runs the model."""
    context = click.get_current_context()
    for name in ("device", "precision", "threads", "batch", "alpha", "deadline"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name} is for engines on this machine, and --server runs the model: leave it out"
            )

"""TensorRT's messages: its errors become the text of our exceptions, the rest goes to Python's logging."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator

from sharpose.engines.tensorrt_flavour import TensorRtFlavour
from sharpose.engines.untyped import Untyped

__all__ = ["collect_errors", "tensorrt_logger"]

_log = logging.getLogger("sharpose.tensorrt")
_LEVELS = (logging.ERROR, logging.ERROR, logging.WARNING, logging.DEBUG, logging.DEBUG)  # by TensorRT's severity
_collectors: list[list[str]] = []


@functools.cache
def tensorrt_logger(flavour: TensorRtFlavour) -> Untyped:
    """The one logger of a flavour: TensorRT keeps the first it is given and complains about others."""
    base: type[Untyped] = flavour.module.ILogger

    class _Logger(base):  # type: ignore[misc]  # its base is known at run time only
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Untyped, message: str) -> None:
            """Called by TensorRT, from any of its threads."""
            number = int(severity)
            if number <= 1:
                for collector in _collectors:
                    collector.append(message)
                if _collectors:
                    return  # the exception will say it
            _log.log(_LEVELS[min(number, len(_LEVELS) - 1)], message)

    return _Logger()


@contextlib.contextmanager
def collect_errors() -> Iterator[list[str]]:
    """Everything that TensorRT calls an error inside the block, instead of logging it."""
    messages: list[str] = []
    _collectors.append(messages)
    try:
        yield messages
    finally:
        _collectors[:] = [item for item in _collectors if item is not messages]

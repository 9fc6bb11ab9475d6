"""Who may call what, and when: engines serve one thread after another, what follows a stream serves one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import update_wrapper
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from sharpose.errors import EngineError, InputError

_Self = TypeVar("_Self")
_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def check_process(what: str, made_in: int) -> None:
    """Refuse to use an engine in a process forked from the one that made it: its threads are not there, so it may hang.

    Args:
        what: Begins the message.
        made_in: The process's id, `os.getpid()` when the engine was made.

    Raises:
        EngineError: this is another process.
    """
    if os.getpid() != made_in:
        raise EngineError(
            f"{what}: expected to be called in process {made_in}, which made it, got process {os.getpid()}, forked "
            "from it; engines don't survive a fork: make one in the child process, or start that by `spawn`"
        )


class EngineLock:
    """A context in which one thread at a time uses an engine and its buffers; others wait. May be nested.

    A process forked while another thread was inside doesn't wait for a thread that it doesn't have: it is refused.

    Args:
        what: Begins the message to such a process.
    """

    def __init__(self, what: str) -> None:
        self._what, self._lock, self._made_in = what, threading.RLock(), os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that made the lock."""
        return os.getpid() != self._made_in

    def __enter__(self) -> None:
        check_process(self._what, self._made_in)
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def one_thread(
    method: Callable[Concatenate[_Self, _Args], _Result],
) -> Callable[Concatenate[_Self, _Args], _Result]:
    """Decorate methods of an object that has memory of its stream: a thread that comes while another is inside is
    refused with `InputError`, since the order of the frames would be left to chance.
    """

    def alone(self: _Self, /, *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        # Taking and giving back the one entry are atomic; unlike a lock, a list can be copied and pickled.
        free: list[Any] = vars(self).setdefault("_free", [None])
        try:
            free.pop()
        except IndexError:
            raise InputError(
                f"{type(self).__name__}: called by two threads at a time; expected one for each stream, called with "
                "its frames in order"
            ) from None
        try:
            return method(self, *args, **kwargs)
        finally:
            free.append(None)

    update_wrapper(alone, method)
    return alone

"""What several threads, and forked processes, may do with engines and with what follows a stream."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections.abc import Callable

import pytest

from sharpose.engines.locks import EngineLock, one_thread
from sharpose.errors import EngineError, InputError


def in_child(action: Callable[[], object]) -> str:
    """What `action` raises in a forked process, which must end within ten seconds; empty if it raises nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writing)
    killer = threading.Timer(10, os.kill, [child, 9])
    killer.start()
    with os.fdopen(reading) as said:
        text = said.read()
    _, status = os.waitpid(child, 0)
    killer.cancel()
    assert status == 0, "the child hung"
    return text


def test_threads_wait_for_each_other_and_one_may_nest() -> None:
    lock = EngineLock("engine")
    inside: list[int] = []
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(200):
            with lock, lock:
                inside.append(1)
                most = max(most, len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == 1


def test_a_child_forked_while_a_thread_is_inside_is_refused_and_does_not_hang() -> None:
    lock = EngineLock("engine")
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with lock:
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(30)
    try:
        said = in_child(lock.__enter__)
    finally:
        leave.set()
        thread.join(30)
    assert said.startswith(f"{EngineError.__name__}: engine: expected to be called in process {os.getpid()}")
    assert said.endswith("make one in the child process, or start that by `spawn`")
    assert in_child(lambda: EngineLock("engine").__enter__()) == ""  # made in the child


class Following:
    """Remembers a stream; `inside` runs in the middle of a call."""

    def __init__(self) -> None:
        self.inside: Callable[[], object] = int
        self.frames = 0

    @one_thread
    def update(self, frames: int = 1) -> int:
        """Count frames."""
        self.inside()
        self.frames += frames
        return self.frames


def test_a_second_thread_inside_is_refused() -> None:
    following = Following()
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        entered.set()
        leave.wait(30)

    following.inside = stay
    thread = threading.Thread(target=following.update)
    thread.start()
    assert entered.wait(30)
    with pytest.raises(InputError, match="Following: called by two threads at a time; expected one for each stream"):
        following.update()
    leave.set()
    thread.join(30)
    assert following.update(frames=2) == 3  # one thread after another is fine


def test_an_error_inside_leaves_it_usable_and_copies_are_their_own() -> None:
    following = Following()
    following.inside = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        following.update()
    following.inside = int
    assert following.update() == 1
    for other in (copy.deepcopy(following), pickle.loads(pickle.dumps(following))):
        assert other.update() == 2
    assert following.frames == 1

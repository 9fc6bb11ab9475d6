"""Processes in which Linux's Python looks like Windows' and macOS's to our modules: what they haven't is taken away.

As a program, `other_platforms.py FOLDER` does on both what a user does first, and writes how that went to `win32.json`
and `darwin.json`. Other packages, and the standard library, are imported before: they have tests of their own for that.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.abc
import io
import json
import os
import shutil
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_MODULES = {"win32": ("fcntl", "grp", "pwd", "pty", "resource", "termios"), "darwin": ()}
_FUNCTIONS = {
    "win32": (
        "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK chown fchown fork forkpty geteuid getgid getpgid getpriority "
        "getuid killpg mkfifo nice openpty pidfd_open posix_fallocate pread preadv pwrite pwritev readv "
        "register_at_fork sched_getaffinity sched_setaffinity sendfile set_blocking setpriority setsid statvfs sync "
        "uname wait3 wait4"
    ),
    "darwin": "pidfd_open posix_fallocate sched_getaffinity sched_setaffinity",
}
_SIGNALS = {
    "win32": "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR2 alarm pthread_kill pthread_sigmask sigwait",
    "darwin": "SIGPWR SIGRTMIN",
}
_IMPORTED = (
    "asyncio av click concurrent.futures cv2 http.server importlib.metadata multiprocessing.connection "
    "multiprocessing.popen_spawn_posix multiprocessing.resource_tracker numpy onnxruntime platform pydantic "
    "rich.console rich.progress rich.table selectors ssl subprocess urllib.request uuid yaml"
)
_ROOT = Path(__file__).resolve().parent.parent.parent
_FOLDERS = ("sharpose", "engines", "serving", "runtime", "export", "archive", "training")
_NOT_FOR_IMPORT = frozenset(
    ("sharpose.serving.product_model", "sharpose.serving.gate_model")
)  # Triton's Python runs them
_STAND_INS = ("torch", "onnx", "onnxscript", "ray", "tritonclient")  # importing them takes seconds
_NOT_INSTALLED = ("cuda", "openvino", "tensorrt", "tensorrt_rtx")


class _AnythingKind(type):
    """A class whose attributes are such classes, which can be called, subclassed and used as a decorator."""

    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything

    def __getitem__(cls, key: object) -> object:
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __or__


class Anything(metaclass=_AnythingKind):
    """What a module of `_STAND_INS` holds under every name."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self

    def __getattr__(self, name: str) -> object:
        return self


class _StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of `_STAND_INS`, all of them packages."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in _STAND_INS else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = lambda name: Anything  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


class Locks(ModuleType):
    """`msvcrt`: one byte is locked, at the position of the descriptor, and only if nobody else has locked it.

    Attributes:
        positions: Where bytes were locked.
    """

    LK_NBLCK = 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self._flock = importlib.import_module("fcntl")
        self.positions: list[int] = []

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        assert (mode, count) == (self.LK_NBLCK, 1)
        self.positions.append(os.lseek(descriptor, 0, os.SEEK_CUR))
        try:
            self._flock.flock(descriptor, self._flock.LOCK_EX | self._flock.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None


def become(platform: str) -> Locks | None:
    """Take away what a platform's Python hasn't; returns Windows' locks."""
    sys.meta_path.insert(0, _StandInFinder())
    locks = Locks() if platform == "win32" else None
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    for owner, names in ((os, _FUNCTIONS[platform]), (signal, _SIGNALS[platform])):
        for name in names.split():
            if hasattr(owner, name):
                delattr(owner, name)
    for name in (*_MODULES[platform], *_NOT_INSTALLED):
        sys.modules[name] = None  # type: ignore[assignment]
    if locks is not None:
        sys.modules["msvcrt"] = locks
        os.O_BINARY = 0  # type: ignore[attr-defined]
        signal.SIGBREAK = signal.SIGUSR1  # type: ignore[attr-defined]
    sys.platform = platform
    return locks


def import_everything() -> dict[str, str]:
    """Import each module of ours; what is wrong, by module."""
    failures = {}
    for folder in _FOLDERS:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            parts = path.relative_to(_ROOT).with_suffix("").parts
            name = ".".join(parts if parts[0] == "sharpose" else ("sharpose", *parts)).removesuffix(".__init__")
            if name in _NOT_FOR_IMPORT:
                continue
            try:
                importlib.import_module(name)
            except Exception as error:
                failures[name] = traceback.format_exception_only(error)[-1].strip()
    return failures


@contextlib.contextmanager
def _said() -> Iterator[dict[str, str]]:
    """What a block prints."""
    said: dict[str, str] = {}
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        yield said
        said |= {"out": out.getvalue(), "err": err.getvalue()}


def command(name: str, *arguments: str) -> dict[str, object]:
    """A command's exit code and what it prints."""
    import sharpose.__main__

    sys.argv = [f"sharpose-{name}", *arguments]
    code: object = None
    with _said() as said:
        try:
            getattr(sharpose.__main__, name)()
        except SystemExit as end:
            code = end.code
    return {"code": code, **said}


def refused(call: Callable[[], object]) -> str:
    """What an error of ours says; `taken` where there is none."""
    from sharpose.errors import SharposeError

    try:
        call()
    except SharposeError as error:
        return str(error)
    return "taken"


def on_windows() -> dict[str, object]:
    """What a user does first there."""
    locks = become("win32")
    assert locks is not None
    from sharpose.archive.claims import claim
    from sharpose.file_locks import check_not_held, hold_folder, open_to_write
    from sharpose.runtime.sinks.outputs import Output

    done: dict[str, object] = {"failures": import_everything()}
    options = ["--json", "{source}.jsonl", "--coco", "coco.json", "--frames", "frames", "--output", "out.mp4"]
    done["run"] = command("run", "scene:people=3,frames=2,size=360x640", *options, "--refine", "always", "--batch", "4")
    done["again"] = command("run", "scene", "--coco", "coco.json")
    done["doctor"] = command("doctor")
    done["stream"] = command("run", "/dev/video0", "--full-frame", "--json", "no.jsonl")

    held = open_to_write(Path("held.txt"))
    done["position"] = os.lseek(held, 0, os.SEEK_CUR)
    done["held"] = refused(lambda: check_not_held(Path("held.txt")))
    os.close(held)
    done["let go"] = refused(lambda: check_not_held(Path("held.txt")))
    Path("folder").mkdir()
    of_folder = hold_folder(Path("folder"))
    done["held folder"] = refused(lambda: hold_folder(Path("folder")))
    of_folder.close()
    done["left in folder"] = [path.name for path in Path("folder").iterdir()]

    outputs = [Output("--json", "claimed.jsonl")]
    with claim(outputs) as claimed:
        Path(claimed.hidden[0][1]).write_text("whole")
        done["claimed"] = refused(lambda: claim(outputs))
        claimed.publish()
    done["published"] = [path.name for path in Path.cwd().glob("*claimed*")]
    done["locked at"] = sorted(set(locks.positions))
    return done | {"break": stopped_by_break(), "auto": taken_by_auto("DmlExecutionProvider")}


def on_macos() -> dict[str, object]:
    """The same where little differs from Linux."""
    become("darwin")
    from sharpose.engines.device import cpu_text, processor_name, usable_cores

    done: dict[str, object] = {"failures": import_everything(), "cores": usable_cores()}
    done["camera"] = command("run", "0", "--full-frame", "--json", "no.jsonl")
    done["processor"] = [processor_name(), cpu_text(Path("no such file"))]
    return done | {"auto": taken_by_auto("CoreMLExecutionProvider")}


def taken_by_auto(provider: str) -> list[str]:
    """What `--device auto` says where ONNX Runtime has a provider that starts."""
    import onnxruntime

    from sharpose.engines import choose

    onnxruntime.get_available_providers = lambda: [provider, "CPUExecutionProvider"]
    choose.provider_works = lambda provider: True
    lines: list[str] = []
    choose.load_on("auto", str, lines.append)
    return lines


def stopped_by_break() -> list[object]:
    """The exit code of a run that Ctrl-Break asks to stop, and of one that a second Ctrl-Break ends at once."""
    from sharpose.cli import Terminated
    from sharpose.runtime.messages import stop_on_signals

    codes: list[object] = []
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGBREAK)  # type: ignore[attr-defined]
        codes.append(stop.exit_code)
        try:
            signal.raise_signal(signal.SIGBREAK)  # type: ignore[attr-defined]
        except Terminated as end:
            codes.append(end.exit_code)
    return codes


if __name__ == "__main__":
    for needed in _IMPORTED.split():
        importlib.import_module(needed)
    sysconfig.get_config_vars()  # which import a module that is named after the platform
    os.chdir(sys.argv[1])
    child = os.fork()
    if child == 0:
        Path("darwin.json").write_text(json.dumps(on_macos()))
    else:
        Path("win32.json").write_text(json.dumps(on_windows()))
        os.waitpid(child, 0)
    os._exit(0)  # what other packages do at the end is for the system that is really there

"""Workers that are actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sharpose.archive.claims import identity
from sharpose.archive.options import divides_cores
from sharpose.archive.plan import Video
from sharpose.archive.schedule import Died, Event, Ready, Refused, WorkerId
from sharpose.archive.worker import Result, VideoWorker
from sharpose.errors import EngineError, counted, one_line, require_packages
from sharpose.runtime.options import RunOptions

_STORE = 100_000_000  # bytes of the object store of a cluster of our own: only options and results go through it
_PATIENCE = 5.0  # seconds for an actor to end
_ON_GPU = ("cuda", "tensorrt", "ort-tensorrt")


@dataclass(frozen=True)
class Share:
    """What actors take of a cluster.

    Attributes:
        actors: How many there are at most.
        cores: Of each.
        gpus: Of each, 0 or 1.
    """

    actors: int
    cores: int
    gpus: int

    @classmethod
    def of(cls, options: RunOptions, workers: int | None, nodes: Sequence[Mapping[str, float]]) -> Share:
        """From the options of the archive, `--workers`, and Ray's resources of each machine."""
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        cores = int(sum(node.get("CPU", 0) for node in nodes))
        served = options.remote.server is not None
        on_gpu = options.device.split(":")[0] in _ON_GPU or (options.device == "auto" and gpus > 0 and not served)
        actors = workers or max(1, gpus if on_gpu else cores // (options.threads or 2))
        on_each = int(min((node["CPU"] for node in nodes if node.get("CPU", 0) >= 1), default=1))
        cores_each = options.threads or max(1, min(cores // actors, on_each))
        return cls(actors, cores_each if divides_cores(options) else 1, int(on_gpu))

    def lacking(self, options: RunOptions, nodes: Sequence[Mapping[str, float]]) -> str:
        """What no machine has, so that Ray would wait for ever to place an actor; empty where one has all of it."""
        if any(node.get("CPU", 0) >= self.cores and node.get("GPU", 0) >= self.gpus for node in nodes):
            return ""
        if self.gpus and not any(node.get("GPU", 0) >= 1 for node in nodes):
            return f"--device {options.device}: expected a machine with a GPU in the Ray cluster, found none"
        option = f"--threads {self.cores}" if options.threads else "--engine ray"
        most = int(max((node.get("CPU", 0) for node in nodes), default=0))
        beside = " beside a GPU" if self.gpus else ""
        cores = counted(self.cores, "core")
        return f"{option}: expected a machine with {cores}{beside} in the Ray cluster; the most that one has is {most}"


class RayWorkers:
    """Actors, each with an estimator that it keeps; Ray decides on which machine.

    The cluster is the one that the environment variable RAY_ADDRESS names, else one that is started on this machine and
    ends with the run.

    Args:
        options: Of the archive.
        workers: How many at most; as many as there is room for if None.
        say: Called with a line where no machine of an existing cluster has what an actor needs.

    Raises:
        EngineError: Ray isn't installed, there is no such cluster, or this machine hasn't what an actor needs.

    Attributes:
        count: How many actors to start at most.
    """

    def __init__(self, options: RunOptions, workers: int | None, say: Callable[[str], None]) -> None:
        own = "RAY_ADDRESS" not in os.environ
        if own:
            _keep_to_itself()
        else:
            _check_address(os.environ["RAY_ADDRESS"])
        require_packages("--engine ray", ["ray"], "ray", EngineError)
        import ray

        self._ray: Any = ray
        quiet = {"log_to_driver": options.debug, "logging_level": "ERROR", "configure_logging": False}
        local = {"address": "local", "include_dashboard": False, "object_store_memory": _STORE} if own else {}
        try:
            ray.init(**quiet, **local)
        except Exception as error:  # of many kinds
            where = "can't be started here" if own else f"at RAY_ADDRESS={os.environ['RAY_ADDRESS']} can't be reached"
            raise EngineError(f"a Ray cluster {where}: {one_line(error)}") from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        share = Share.of(options, workers, nodes)
        lack = share.lacking(options, nodes)
        if lack and own:
            ray.shutdown()
            raise EngineError(lack)
        if lack:
            say(f"{lack}; waiting for one, as a cluster that grows may have it later")
        self.count = share.actors
        self._options = replace(options, threads=share.cores) if divides_cores(options) else options
        self._actor = ray.remote(num_cpus=share.cores, num_gpus=share.gpus, max_restarts=0)(_Actor)
        self._actors: dict[WorkerId, Any] = {}
        self._at_work: dict[Any, WorkerId] = {}  # by what they will return
        self._next = 0

    def start(self) -> WorkerId:
        """See `Workers`."""
        worker, self._next = self._next, self._next + 1
        actor = self._actors[worker] = self._actor.remote()
        self._at_work[actor.prepare.remote(self._options, str(Path.cwd()))] = worker
        return worker

    def give(self, worker: WorkerId, video: Video) -> None:
        """See `Workers`."""
        self._at_work[self._actors[worker].run.remote(video)] = worker

    def wait(self, seconds: float) -> Iterator[tuple[WorkerId, Event]]:
        """See `Workers`."""
        if not self._at_work:
            time.sleep(seconds)
            return
        for reference in self._ray.wait(list(self._at_work), timeout=seconds)[0]:
            worker = self._at_work.pop(reference)
            try:
                event: Event = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                event = Died(f"its actor ended: {_words(error)}")
                self.end(worker)
            yield worker, event

    def end(self, worker: WorkerId) -> None:
        """See `Workers`."""
        self._at_work = {reference: other for reference, other in self._at_work.items() if other != worker}
        self._ray.kill(self._actors.pop(worker))

    def close(self) -> None:
        """See `Workers`."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.wait(list(self._at_work), num_returns=max(1, len(self._at_work)), timeout=_PATIENCE)
        self._ray.shutdown()


class _Actor:
    """A worker, somewhere in the cluster."""

    def prepare(self, options: RunOptions, folder: str) -> Ready | Refused:
        """Load the estimator, in the folder that relative paths start from."""
        try:
            os.chdir(folder)
            self._worker = VideoWorker(options)
        except OSError as error:
            line = f"{folder}: expected the same folders on all machines of the cluster: {one_line(error)}"
            return Refused.by(EngineError(line))
        except Exception as error:
            return Refused.by(error)
        return Ready(identity())

    def run(self, video: Video) -> Result:
        """Make a video's results."""
        return self._worker.run(video)


def _check_address(address: str) -> None:
    """Find out in seconds what Ray finds out in minutes. Raises `EngineError`."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        if parts.hostname is not None and parts.port is not None:
            socket.create_connection((parts.hostname, parts.port), _PATIENCE).close()
    except (OSError, ValueError) as error:
        raise EngineError(
            f"RAY_ADDRESS={address}: expected HOST:PORT of a running Ray cluster: {one_line(error)}"
        ) from None


def _keep_to_itself() -> None:
    """A cluster of our own takes no commands from others, reports nothing, and leaves no token in the home.

    Ray would write one to ~/.ray/auth_token, with which it then greets clusters that have another.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    cause = next((line for line in lines if "cause" in line.lower() or "memory" in line.lower()), lines[0])
    return cause[:300]

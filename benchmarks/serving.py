"""What a server costs beside the model in the same process: `python benchmarks/serving.py --start --output DIR`.

crops: a picture with 1, 4 and 16 people, by this process's engine and by the server, in turns of alternating order,
from a decoded frame and boxes to poses. streams: 1 to 8 streams of one person each, all refined, as fast as they can:
here all of them in shared batches, there a client for each; and how many of their requests an execution of the server
held.
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C while modules are imported
    from sharpose.__main__ import end_on_signals

    end_on_signals()

import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import click
import numpy as np
from latency import picture_with
from measuring.command import (
    PartsReport,
    Row,
    begin,
    bundle_option,
    device_option,
    precision_option,
    report_options,
)
from measuring.triton_server import NoTritonError, TritonFailedError, TritonHome, TritonServer
from measuring.turns import Frame, bootstrap_median, refined_counts, take_turns
from report import (
    benchmark_command,
    command_to_repeat,
    number_list,
    word_list,
)

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.cli import Number, option
from sharpose.cli import main as run_command
from sharpose.engines.device import parse_device
from sharpose.engines.precision import PrecisionChoice, choose_precision
from sharpose.errors import InputError, one_line
from sharpose.runtime import PoseEstimator, RemotePoseEstimator
from sharpose.runtime.estimator import Estimator
from sharpose.runtime.result import Picture
from sharpose.serving.client.address import ServerAddress
from sharpose.serving.repository import HowToRun, write_repository

PARTS = ("crops", "streams")
_MODEL, _PARTS = "Model", "What is measured"
_HERE, _THERE = "in process", "server"


@dataclass(frozen=True)
class Effort:
    """What each part measures, and for how long."""

    crops: Sequence[int] = (1, 4, 16)
    percents: Sequence[int] = (0, 100)  # refined, of the crops
    streams: Sequence[int] = (1, 2, 4, 8)
    seconds: float = 3.0  # for each row of crops, and for each turn of streams
    rounds: int = 6  # least number of turns of each contender in a row of crops


class Serving:
    """Runs the parts; each returns the rows of its table.

    Args:
        bundle: The bundle, which the server must serve too.
        device: Where this process's engine runs.
        precision: In which it computes.
        url: The server's model.
        effort: What to measure.
    """

    def __init__(self, bundle: Bundle, device: str, precision: PrecisionChoice, url: str, effort: Effort) -> None:
        self._bundle, self._url, self._effort = bundle, url, effort
        with contextlib.ExitStack() as stack:
            self._remote = stack.enter_context(self._client())
            self._local = stack.enter_context(
                PoseEstimator(bundle.path, device=device, precision=precision, refine="always")
            )
            self._local.warm_up()
            self._stack = stack.pop_all()

    def _client(self) -> RemotePoseEstimator:
        return RemotePoseEstimator(self._url, bundle=self._bundle.path, refine="always")

    def close(self) -> None:
        """Close the estimators."""
        self._stack.close()

    def crops(self) -> list[Row]:
        """Milliseconds from a decoded frame of 720p and boxes to poses: medians of turns, in which a pause is one."""
        rows = []
        for people in self._effort.crops:
            for percent in self._effort.percents:
                times = take_turns(
                    {_HERE: _frame(self._local, people), _THERE: _frame(self._remote, people)},
                    refined_counts(people, percent),
                    warm_up=2,
                    seconds=self._effort.seconds,
                    min_rounds=self._effort.rounds,
                )
                here, there = times[_HERE].turn_means(), times[_THERE].turn_means()
                median, low, high = bootstrap_median(there - here)
                rows.append(
                    {
                        "crops": people,
                        "refined %": percent,
                        f"{_HERE} ms": float(np.median(here)),
                        f"{_THERE} ms": float(np.median(there)),
                        "difference ms": median,
                        "95 % interval": f"{low:.2f} to {high:.2f}",
                        f"{_THERE} p95 ms": times[_THERE].percentiles()["p95"],
                    }
                )
        return rows

    def streams(self) -> list[Row]:
        """Frames a second of so many streams with one person each, all refined."""
        rows = []
        for count in self._effort.streams:
            rates: dict[str, list[float]] = {_HERE: [], _THERE: []}
            waits: list[float] = []
            before = served_counts(self._url)
            for name in (_HERE, _THERE, _THERE, _HERE) * 2:
                if name == _HERE:
                    rates[name].append(self._stream_here(count, self._effort.seconds))
                else:
                    times = self._streams_there(count, self._effort.seconds)
                    rates[name].append(_rate(times))
                    waits += [one for own in times for one in own]
            after = served_counts(self._url)
            rows.append(
                {
                    "streams": count,
                    f"{_HERE} frames/s": float(np.mean(rates[_HERE])),
                    f"{_THERE} frames/s": float(np.mean(rates[_THERE])),
                    f"{_THERE} p50 ms": float(np.percentile(waits, 50)) * 1000,
                    f"{_THERE} p95 ms": float(np.percentile(waits, 95)) * 1000,
                    "requests an execution": "" if before is None or after is None else _quotient(before, after),
                }
            )
        return rows

    def _stream_here(self, count: int, seconds: float) -> float:
        """Frames a second of all streams together, in shared batches."""
        pictures = [Picture(*picture_with(1))] * count
        self._local.estimate(pictures)
        began, frames = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds or not frames:
            self._local.estimate(pictures)
            frames += count
        return frames / passed

    def _streams_there(self, count: int, seconds: float) -> list[list[float]]:
        """The seconds of every frame of each stream, with a client for each."""
        image, boxes = picture_with(1)
        times: list[list[float]] = [[] for _ in range(count)]
        failures: list[Exception] = []
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self._client()) for _ in range(count)]
            started = threading.Barrier(count + 1)

            def run(client: RemotePoseEstimator, own: list[float]) -> None:
                try:
                    client(image, boxes)
                    started.wait()
                    began = now = time.perf_counter()
                    while now - began < seconds:
                        client(image, boxes)
                        own.append(time.perf_counter() - now)
                        now += own[-1]
                except Exception as error:  # raised below, in the main thread
                    failures.append(error)
                    started.abort()

            threads = [
                threading.Thread(target=run, args=pair, daemon=True) for pair in zip(clients, times, strict=True)
            ]
            for thread in threads:
                thread.start()
            with contextlib.suppress(threading.BrokenBarrierError):
                started.wait()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        return times


def _rate(times: Sequence[Sequence[float]]) -> float:
    """Frames a second of all streams, from the seconds of each one's frames: none idles until the others have ended."""
    return sum(len(own) / sum(own) for own in times if own)


def _frame(estimator: Estimator, people: int) -> Frame:
    """A frame of an estimator, with the first of its people refined."""
    image, boxes = picture_with(people)

    def run(refined: int) -> dict[str, float]:
        began = time.perf_counter()
        estimator(image, boxes, rows=np.arange(refined))
        return {"end_to_end": time.perf_counter() - began}

    return run


def served_counts(url: str) -> tuple[int, int] | None:
    """Requests that a server's model has served, and executions that they took; None where it doesn't say over HTTP."""
    address = ServerAddress.parse(url)
    path = f"{address.scheme}://{address.netloc}{address.prefix}/v2/models/{address.model}/stats"
    try:
        with urllib.request.urlopen(path, timeout=10) as answer:
            (model,) = json.loads(answer.read())["model_stats"]
            return int(model["inference_stats"]["success"]["count"]), int(model["execution_count"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _quotient(before: tuple[int, int], after: tuple[int, int]) -> float:
    return (after[0] - before[0]) / max(after[1] - before[1], 1)


@contextlib.contextmanager
def started_server(bundle: Bundle, device: str, precision: str) -> Iterator[str]:
    """A tritonserver with the bundle, on this machine; gives the address of its model.

    Raises:
        InputError: there is none.
    """
    with TemporaryDirectory(prefix="sharpose-serving-") as folder:
        repository = Path(folder) / "models"
        repository.mkdir()
        write_repository(bundle, repository, "product", HowToRun(device, precision))
        try:
            home = TritonHome()
        except NoTritonError as error:
            raise InputError(
                f"--start: expected a tritonserver that can run here: {error}; give --server URL"
            ) from None
        server = TritonServer(home, repository, Path(folder) / "log")
        try:
            server.start()
        except TritonFailedError as error:
            raise InputError(f"--start: expected the server to start: {one_line(error)}") from None
        try:
            yield server.url
        finally:
            server.kill()


@benchmark_command(
    "python benchmarks/serving.py --start --output out",
    "python benchmarks/serving.py --server http://gpu-host:8000/sharpose --bundle bundle --streams 1,16 --output out",
)
@option(_MODEL, "--server", metavar="URL", help="A running server of the bundle, such as http://HOST:8000/sharpose.")
@option(_MODEL, "--start", is_flag=True, help="Start a tritonserver of a wheel, downloaded once, on this machine.")
@bundle_option(_MODEL)
@device_option(_MODEL, "Device here, and of the server with --start.")
@precision_option(_MODEL)
@option(_PARTS, "--parts", default=",".join(PARTS), show_default=True, callback=word_list(PARTS), help="What to run.")
@option(_PARTS, "--crops", callback=number_list(1, 1024), help="Numbers of people.  [default: 1,4,16]")
@option(_PARTS, "--refine", callback=number_list(0, 100), help="Percentages refined, of crops.  [default: 0,100]")
@option(_PARTS, "--streams", callback=number_list(1, 64), help="Numbers of streams.  [default: 1,2,4,8]")
@option(_PARTS, "--seconds", default=3.0, show_default=True, type=Number(0), help="Least time for each row.")
@report_options("serving.md and serving.json", "parts")
def command(
    server: str | None,
    start: bool,
    bundle: Path | None,
    device: str,
    precision: PrecisionChoice,
    parts: list[str],
    crops: list[int] | None,
    refine: list[int] | None,
    streams: list[int] | None,
    seconds: float,
    output: Path,
    overwrite: bool,
    debug: bool,
) -> int:
    """Compare a server with the model in the same process, for 1 to 16 people and for 1 to 8 streams."""
    if (server is None) == (not start):
        raise click.UsageError("expected --server URL, or --start to start one here")
    machine = begin(output, "serving.md", "serving.json", overwrite=overwrite)
    opened = open_bundle(shipped_bundle() if bundle is None else bundle)
    chosen = choose_precision(opened, parse_device(device), precision)
    effort = Effort(seconds=seconds)
    effort = replace(
        effort, crops=crops or effort.crops, percents=refine or effort.percents, streams=streams or effort.streams
    )
    report = PartsReport(
        "serving",
        output,
        machine,
        f"{opened.model.name} on {device} in {chosen}, here and on the server.",
        {
            "bundle": opened.model.name,
            "device": device,
            "precision": chosen,
            "command": command_to_repeat("serving.py"),
        },
    )
    with contextlib.ExitStack() as stack:
        url = server or stack.enter_context(started_server(opened, device, chosen))
        serving = stack.enter_context(contextlib.closing(Serving(opened, device, chosen, url, effort)))
        report.measure(serving, parts)
    return 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()

"""A worker: one estimator, a video at a time."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import click

from sharpose.archive.claims import Claim, claim
from sharpose.archive.plan import Video
from sharpose.cli import EXIT_FAILED
from sharpose.errors import (
    EngineError,
    InputError,
    OutputTakenError,
    ServerGoneError,
    ServerRefusedError,
    SharposeError,
    SinkError,
)
from sharpose.files import found_at
from sharpose.runtime.assemble import engines_of, run_with
from sharpose.runtime.frames import Frame, Source
from sharpose.runtime.messages import Messages
from sharpose.runtime.options import RunOptions
from sharpose.runtime.sinks.outputs import Output, SinkSettings, make_sink
from sharpose.runtime.sources.urls import redact_urls
from sharpose.runtime.statistics import StreamSnapshot

State = Literal["done", "skipped", "failed", "taken"]
Progress = Callable[[int, int | None], None]
"""Called with the frames of a video that are done, and how many it has, if that is known."""


@dataclass(frozen=True)
class Result:
    """How it went with a video.

    Attributes:
        video: Which.
        state: `done`; `skipped`, as its outputs were there; `failed`; or `taken`: another run is writing an output.
        reason: Why it isn't done, in one line.
        retry: Whether another try may go well: the engine failed, the server was gone, or this program failed.
        server: What of it was the server's doing: it was `gone`, and the worker is as good as before; or it `refuses`
            this run's requests, as it would those of every other video.
        frames: Frames whose poses were written.
        people: People in those.
        seconds: From opening the video to its results.
        partial: Names under which the results of a failed video are kept.
        warnings: What was said meanwhile.
    """

    video: Video
    state: State
    reason: str = ""
    retry: bool = False
    server: Literal["", "gone", "refuses"] = ""
    frames: int = 0
    people: int = 0
    seconds: float = 0.0
    partial: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class _Messages(Messages):
    """Keeps a video's warnings and numbers, and passes on its progress and, at once, what is said of the server."""

    def __init__(self, say: Callable[[str], None] | None) -> None:
        super().__init__(quiet=True)
        self._say_at_once = say
        self.on_progress: Progress = lambda frames, total: None
        self.warnings: list[str] = []
        self.numbers = StreamSnapshot()

    @contextlib.contextmanager
    def progress(self, source_at: Callable[[int], Source]) -> Iterator[Callable[[int, Frame], None]]:
        frames = 0

        def advance(index: int, frame: Frame) -> None:
            nonlocal frames
            frames += 1
            self.on_progress(frames, source_at(index).info.frame_count)

        yield advance

    def warning(self, line: str) -> None:
        self.warnings.append(redact_urls(line))

    def error(self, line: str) -> None:
        self.warning(line)

    def outage(self, line: str) -> None:
        if self._say_at_once is None:
            self.warning(line)
        else:
            self._say_at_once(redact_urls(line))

    def summary(
        self,
        numbers: StreamSnapshot,
        *,
        stream: str | None = None,
        warm_up: float | None = None,
        deadline: bool = False,
        timings: bool = False,
    ) -> None:
        self.numbers = numbers


class VideoWorker:
    """Makes the results of videos, each whole or not there.

    Args:
        options: Of the archive; sources and outputs are those of each video.
        say: Called at once, from any thread, with a line when the server is gone, busy for long, or back; if None, such
            lines are warnings of the video.

    Raises:
        SharposeError: the estimator or the detector can't be loaded, or an option would do nothing.
    """

    def __init__(self, options: RunOptions, say: Callable[[str], None] | None = None) -> None:
        self._options = replace(options, quiet=False, json_logs=False, timings=False)
        self._messages = _Messages(say)
        self._to_close = contextlib.ExitStack()
        self._engines = self._to_close.enter_context(engines_of(self._options, self._messages))
        self._check_sinks()

    def _check_sinks(self) -> None:
        """Find out before the first video what no sink can write."""
        options = self._options
        settings = SinkSettings(
            "video",
            self._engines.estimator.skeleton,
            tracked=options.track,
            video=options.video,
            biomechanics=options.biomechanics,
            picture_kind=options.frames_format,
        )
        for option, target in options.outputs:
            try:
                make_sink(Output(option, target), settings)  # as it was given: it is no file's name yet
            except SinkError as error:
                raise InputError(str(error)) from error

    def run(self, video: Video, on_progress: Progress = lambda frames, total: None) -> Result:
        """Make the results of a video that aren't there."""
        self._messages.on_progress = on_progress
        began = time.monotonic()
        try:
            missing = video.missing
            if not missing:
                return Result(video, "skipped")
            if found_at(Path(video.path)) == "nothing":
                return Result(video, "failed", "there is no such file")
            with claim(missing) as claimed:
                if video.missing != missing:  # another run has just made some
                    return Result(video, "taken" if video.missing else "skipped")
                result = self._make(video, claimed)
                return replace(result, seconds=time.monotonic() - began)
        except OutputTakenError as error:
            return Result(video, "taken", str(error))
        except SharposeError as error:
            return Result(video, "failed", str(error))

    def _make(self, video: Video, claimed: Claim) -> Result:
        options = replace(
            self._options, sources=(video.path,), outputs=claimed.hidden, boxes=video.boxes or self._options.boxes
        )
        reason, retry, partial = "", False, tuple[str, ...]()
        server: Literal["", "gone", "refuses"] = ""
        self._messages.numbers = StreamSnapshot()
        try:
            code = run_with(options, self._messages, self._engines)
            if code == 0:
                claimed.publish()
        except OutputTakenError:
            raise
        except (SharposeError, click.ClickException) as error:
            code = EXIT_FAILED
            reason = error.format_message() if isinstance(error, click.ClickException) else str(error)
            cause = error.__cause__ or error
            mistake = SharposeError | click.ClickException | OSError | ValueError  # the next try would meet it again
            passing = any(isinstance(one, EngineError | ServerGoneError) for one in (error, cause))
            retry = passing or not isinstance(cause, mistake)
            if isinstance(cause, ServerGoneError | ServerRefusedError):
                server = "gone" if retry else "refuses"
        except Exception as error:
            code, retry = EXIT_FAILED, True
            reason = f"unexpected {type(error).__name__}: {error} (a defect in this program; --debug shows where)"
            if options.debug:
                traceback.print_exc()
        warnings, self._messages.warnings = [claimed.named(line) for line in self._messages.warnings], []
        if code:
            reason = (claimed.named(reason) if reason else "; ".join(warnings)).replace(f"{video.path}: ", "")
            try:
                partial = claimed.keep_partial()
            except SinkError as error:
                reason += f"; {error}"
        return Result(
            video,
            "failed" if code else "done",
            reason,
            retry=retry,
            server=server,
            frames=self._messages.numbers.frames,
            people=self._messages.numbers.people,
            partial=partial,
            warnings=tuple(warnings),
        )

    def close(self) -> None:
        """Free the engines."""
        self._to_close.close()

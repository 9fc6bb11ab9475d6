"""A stream's numbers as they are sent: JSON for the page, and a verdict for whoever restarts things."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sharpose.runtime.serve.numbers import StreamNumbers

__all__ = ["state_json", "status_of", "trouble"]


def status_of(numbers: StreamNumbers, silent_after: float) -> str:
    """`failed`, `ended`, `reconnecting`, `waiting` (for the first frame), `silent` (and live) or `running`."""
    if numbers.ended:
        return "failed" if numbers.failed else "ended"
    if not numbers.connected:
        return "reconnecting"
    if numbers.live and numbers.silence > silent_after:
        return "silent"
    return "running" if numbers.frames else "waiting"


def trouble(streams: Sequence[StreamNumbers], silent_after: float) -> str | None:
    """Why a run isn't well, or None where it is.

    It isn't where a live stream that hasn't ended was silent for more than `silent_after` seconds, or where all streams
    ended badly.
    """
    if streams and all(stream.failed for stream in streams):
        return "every stream has failed" if len(streams) > 1 else f"{streams[0].name}: the stream has failed"
    silent = [stream for stream in streams if stream.live and not stream.ended and stream.silence > silent_after]
    return "; ".join(f"{stream.name}: no frame for {stream.silence:.0f} s" for stream in silent) or None


def state_json(streams: Sequence[StreamNumbers], silent_after: float) -> bytes:
    """`{"streams": [{"name", "status", "frames", …}], "trouble"}`; times in milliseconds, ASCII only."""
    state = {
        "streams": [_stream(stream, silent_after) for stream in streams],
        "trouble": trouble(streams, silent_after),
    }
    return json.dumps(state, allow_nan=False).encode("ascii")


def _stream(numbers: StreamNumbers, silent_after: float) -> dict[str, object]:
    return {
        "name": numbers.name,
        "status": status_of(numbers, silent_after),
        "live": numbers.live,
        "connected": numbers.connected,
        "width": numbers.size[0] if numbers.size else None,
        "height": numbers.size[1] if numbers.size else None,
        "frame_rate": round(numbers.frame_rate, 2),
        "refine_rate": round(numbers.refine_rate, 4),
        "silence_s": round(numbers.silence, 2),
        "now": {
            "people": numbers.people_now,
            "refined": numbers.refined_now,
            "deferred": numbers.deferred_now,
        },
        "frames": numbers.frames,
        "people": numbers.people,
        "refined": numbers.refined,
        "wanted": numbers.wanted,
        "deferred": numbers.deferred,
        "dropped": numbers.dropped,
        "reconnects": numbers.reconnects,
        "age_ms": None if numbers.age is None else [_ms(numbers.age.p50), _ms(numbers.age.p95)],
        "stages": [
            {"name": name, "p50_ms": _ms(times.p50), "p95_ms": _ms(times.p95)} for name, times in numbers.stages.items()
        ],
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)

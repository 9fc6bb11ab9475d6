"""The program that sends a restream: encoded pictures on standard input, packets to a receiver.

A process of its own, because PyAV holds Python's lock while it connects and while it disconnects, which would stop the
whole run for as long as a receiver takes to answer. It is run by its path and imports nothing of this package.

Standard input begins with a line of JSON: `target` (the address, which no list of processes shows this way), `pipe`
(the format of what follows), `format` (of what is sent) and `options`. Standard output gets the line `connected` once
the receiver has answered, and `lost REASON` if it is lost.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__":  # this folder must not hide other modules
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

import av

_STANDARD_INPUT = 0


class _Input:
    """Standard input as PyAV reads it: what is there, without waiting for more."""

    def read(self, size: int) -> bytes:
        return os.read(_STANDARD_INPUT, size)


def _say(line: str) -> None:
    print(line.replace("\n", " "), flush=True)


def _send(target: str, pipe: str, form: str, options: Mapping[str, str]) -> None:
    with av.open(
        _Input(),
        "r",
        format=pipe,
        options={"probesize": "32", "analyzeduration": "0", "fflags": "nobuffer"},
        buffer_size=4096,
    ) as pictures:
        source = pictures.streams.video[0]
        receiver = av.open(target, "w", format=form, options=dict(options))
        stream = receiver.add_stream_from_template(source)
        receiver.start_encoding()  # connects
        _say("connected")
        for packet in pictures.demux(source):
            if packet.dts is not None:
                packet.stream = stream
                receiver.mux(packet)
        receiver.close()


def main() -> int:
    """Sends until standard input ends; 0 if all was taken."""
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: what follows is PyAV's
        byte = os.read(_STANDARD_INPUT, 1)
        if not byte:
            return 0
        line += byte
    try:
        order = json.loads(line)
        _send(order["target"], order["pipe"], order["format"], order["options"])
    except av.error.ProtocolNotFoundError:
        _say("lost protocol")
        return 1
    except (av.FFmpegError, OSError) as error:
        _say(f"lost {getattr(error, 'strerror', None) or error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

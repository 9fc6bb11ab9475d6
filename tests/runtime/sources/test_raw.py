from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sharpose.errors import InputError, SourceError
from sharpose.runtime.sources.raw import RawSource

FRAME = 4 * 6 * 3


def read(data: bytes, size: tuple[int, int] = (4, 6), rate: float | None = None) -> RawSource:
    """A source that reads this from a pipe, in pieces that are no frames."""
    reading, writing = os.pipe()

    def write() -> None:
        for at in range(0, len(data), 50):
            os.write(writing, data[at : at + 50])
        os.close(writing)

    threading.Thread(target=write, daemon=True).start()
    return RawSource(size, rate, descriptor=reading)


def test_frames_in_whatever_pieces_they_come():
    pixels = np.random.default_rng(0).integers(0, 255, (5, 4, 6, 3), dtype=np.uint8)
    source = read(pixels.tobytes(), rate=10.0)
    frames = list(source)
    np.testing.assert_array_equal([frame.image for frame in frames], pixels)
    assert [frame.time for frame in frames] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert [frame.index for frame in frames] == list(range(5))
    assert (source.info.frame_rate, source.info.live, source.info.warnings) == (10.0, False, [])
    assert frames[0].arrived is None


def test_the_rate_that_nobody_gave():
    assert [frame.time for frame in read(bytes(FRAME * 3))] == pytest.approx([0.0, 0.04, 0.08])


def test_a_last_frame_that_is_cut_off_is_a_warning():
    source = read(bytes(FRAME * 2 + 10))
    assert len(list(source)) == 2
    assert source.info.warnings == [
        "standard input: cut off after 2 frames and 10 of the 72 bytes of a 4x6 frame; is --stdin-size right?"
    ]


@pytest.mark.parametrize("count", [0, 1, FRAME - 1])
def test_not_one_whole_frame_is_an_error(count):
    with pytest.raises(SourceError, match=f"standard input: expected raw frames, but it ended after {count} of the 72"):
        list(read(bytes(count)))


def test_the_size_must_be_given():
    with pytest.raises(InputError, match="give --stdin-size HEIGHTxWIDTH"):
        RawSource(None)


def test_a_terminal_holds_no_frames():
    controller, terminal = os.openpty()
    with pytest.raises(SourceError, match="it is a terminal"):
        RawSource((4, 6), descriptor=terminal)
    os.close(terminal)
    os.close(controller)


PROGRAM = """
import sys
from sharpose.runtime.sources import SourceOptions, open_source
source = open_source("-", SourceOptions(stdin_size=(4, 6), stride=int(sys.argv[1])))
for frame in source:
    print(frame.index, frame.image[0, 0].tolist(), flush=True)
    if len(sys.argv) > 2:
        break
source.close()
print(source.info.warnings, source.info.live)
"""


def run(data: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], input=data, capture_output=True, check=False, timeout=120
    )


def test_through_a_real_pipe():
    pixels = np.arange(5, dtype=np.uint8).repeat(FRAME)
    done = run(pixels.tobytes(), "2")
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == ["0 [0, 0, 0]", "2 [2, 2, 2]", "4 [4, 4, 4]", "[] False"]


@pytest.fixture
def open_pipe(tmp_path: Path) -> Iterator[int]:
    """A pipe that delivers one frame, and is never closed."""
    reading, writing = os.pipe()
    os.write(writing, bytes(FRAME))
    yield reading
    os.close(reading)
    os.close(writing)


def test_closing_while_nothing_comes_ends_the_process_cleanly(open_pipe):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "1", "stop"],
        stdin=open_pipe,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == ["0 [0, 0, 0]", "[] False"]

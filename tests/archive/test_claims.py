"""Who may write a result, and what is swept: never what somebody alive is writing, whatever machine that is on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharpose.archive import claims
from sharpose.archive.claims import LEASE, claim, hidden_folder, identity, sweep
from sharpose.errors import OutputTakenError, SinkError
from sharpose.runtime.sinks.outputs import Output


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[Output, Output]:
    return Output("--json", str(tmp_path / "a" / "walk.jsonl")), Output("--frames", str(tmp_path / "b" / "walk"))


def write(hidden: tuple[tuple[str, str], ...], text: str = "new") -> None:
    (_, file), (_, folder) = hidden
    Path(file).write_text(text)
    Path(folder).mkdir()
    Path(folder, "0.jpg").write_text(text)


def files_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def leave(output: Output, owner: str, seconds_ago: float = 0.0) -> Path:
    """A hidden folder whose owner isn't there any more, or is on another machine."""
    folder = hidden_folder(output)
    (folder / "attempt").mkdir(parents=True)
    (folder / "attempt" / "walk.jsonl").write_text("half")
    (folder / "owner").write_text(owner)
    stamp = folder.stat().st_mtime - seconds_ago
    os.utime(folder / "owner", (stamp, stamp))
    return folder


def test_results_appear_together_when_they_are_whole(outputs: tuple[Output, Output], tmp_path: Path) -> None:
    with claim(outputs) as claimed:
        write(claimed.hidden)
        assert not any(Path(output.target).exists() for output in outputs)
        (tmp_path / "a" / "walk.partial.jsonl").write_text("of an earlier run")
        (tmp_path / "b" / "walk").mkdir()  # an empty one is no result
        claimed.publish()
    assert files_in(tmp_path) == {"a/walk.jsonl": "new", "b/walk/0.jpg": "new"}


def test_what_is_not_published_leaves_nothing(outputs: tuple[Output, Output], tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), claim(outputs) as claimed:
        write(claimed.hidden)
        raise KeyboardInterrupt
    with claim(outputs) as claimed, pytest.raises(SinkError, match=r"walk.jsonl: nothing was written$"):
        claimed.publish()
    assert not list((tmp_path / "a").iterdir())
    assert not list((tmp_path / "b").iterdir())


def test_partial_results_have_names_that_say_so(outputs: tuple[Output, Output], tmp_path: Path) -> None:
    for text in ("old", "new"):
        with claim(outputs) as claimed:
            write(claimed.hidden, text)
            file = Path(claimed.hidden[0][1])
            file.rename(file.with_name("walk.partial.jsonl"))  # as a sink names what it had to abandon
            hidden = file.parent
            line = claimed.named(f"full; kept in {hidden}/walk.partial.jsonl")
            assert claimed.keep_partial() == (f"{tmp_path}/a/walk.partial.jsonl", f"{tmp_path}/b/walk.partial")
    assert line == f"full; kept in {tmp_path}/a/walk.partial.jsonl"
    assert files_in(tmp_path) == {"a/walk.partial.jsonl": "new", "b/walk.partial/0.jpg": "new"}


def test_an_empty_result_is_not_kept_as_partial(outputs: tuple[Output, Output], tmp_path: Path) -> None:
    """As a full disk leaves one; what an earlier run could make stays."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "walk.partial.jsonl").write_text("of an earlier run")
    with claim(outputs) as claimed:
        write(claimed.hidden, "")
        assert claimed.keep_partial() == ()
    assert files_in(tmp_path) == {"a/walk.partial.jsonl": "of an earlier run"}


@pytest.fixture
def other_process(outputs: tuple[Output, Output]) -> Iterator[subprocess.Popen[str]]:
    """Another process of this machine that has claimed the outputs."""
    program = (
        "import sys\n"
        "from sharpose.archive.claims import claim\n"
        "from sharpose.runtime.sinks.outputs import Output\n"
        "with claim([Output('--json', sys.argv[1]), Output('--frames', sys.argv[2])]):\n"
        "    print('claimed', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, *(output.target for output in outputs)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    yield process
    process.kill()
    process.communicate()


def test_what_another_process_is_writing_is_left_alone_until_that_is_dead(
    outputs: tuple[Output, Output], other_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    before = files_in(tmp_path)
    assert len(before) == 2
    writing = f"walk.jsonl: is being written by another run, process {other_process.pid} on {platform.node()}$"
    with pytest.raises(OutputTakenError, match=writing):
        claim(outputs)
    with pytest.raises(OutputTakenError):  # also where just one of them is taken, and the other is let go
        claim([Output("--csv", str(tmp_path / "a" / "walk.csv")), outputs[1]])
    assert sweep(outputs) == []
    assert files_in(tmp_path) == before
    other_process.kill()
    other_process.wait()
    assert sweep(outputs) == [hidden_folder(output) for output in outputs]
    assert files_in(tmp_path) == {}
    with claim(outputs) as claimed:
        write(claimed.hidden)
        claimed.publish()
    assert files_in(tmp_path) == {"a/walk.jsonl": "new", "b/walk/0.jpg": "new"}


def test_another_machine_counts_as_alive_until_it_has_been_silent_for_long(outputs: tuple[Output, Output]) -> None:
    """Its lock isn't seen here, as on file systems whose locks end at the machine."""
    owner = "other-boot other-host 7 token"
    folder = leave(outputs[0], owner, LEASE - 30)
    assert sweep(outputs) == []
    with pytest.raises(OutputTakenError, match=r"process 7 on other-host$"):
        claim(outputs)
    assert (folder / "attempt" / "walk.jsonl").read_text() == "half"
    assert sweep(outputs, dead={"other-boot other-host 8"}) == []
    assert sweep(outputs, dead={"other-boot other-host 7"}) == [folder]
    leave(outputs[0], owner, LEASE + 30)
    assert sweep(outputs) == [folder]
    assert not folder.exists()


def test_an_owner_that_never_said_who_it_is_is_dead_within_seconds(outputs: tuple[Output, Output]) -> None:
    """Killed between making the file and writing it; or two runs that met there, each of which let the other go on."""
    leave(outputs[0], "", 2)
    assert sweep(outputs) == []
    with pytest.raises(OutputTakenError, match=r"walk.jsonl: is being .* another run, which is just beginning$"):
        claim(outputs)
    owner = hidden_folder(outputs[0]) / "owner"
    os.utime(owner, (owner.stat().st_mtime - 10,) * 2)
    with claim(outputs) as claimed:
        assert owner.read_text().startswith(identity())
        write(claimed.hidden)
        claimed.publish()
    assert Path(outputs[0].target).read_text() == "new"


def test_a_claim_that_is_at_work_is_touched(outputs: tuple[Output, Output], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_TOUCH_EVERY", 0.01)
    with claim(outputs):
        owner = hidden_folder(outputs[0]) / "owner"
        os.utime(owner, (0, 0))
        for _ in range(2000):
            if owner.stat().st_mtime:
                break
            time.sleep(0.005)
        assert owner.stat().st_mtime > 0


def test_without_locks_the_lease_decides(outputs: tuple[Output, Output], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    leave(outputs[0], f"{identity()} token", LEASE - 30)
    assert sweep(outputs) == []
    with pytest.raises(OutputTakenError):
        claim(outputs)
    owner = hidden_folder(outputs[0]) / "owner"
    os.utime(owner, (0, 0))
    with claim(outputs) as claimed:
        write(claimed.hidden)
        claimed.publish()


def test_who_was_taken_for_dead_publishes_nothing(outputs: tuple[Output, Output], tmp_path: Path) -> None:
    with claim(outputs) as claimed:
        write(claimed.hidden, "of the one that was suspended")
        owner = hidden_folder(outputs[0]) / "owner"
        owner.write_text("other-boot other-host 7 token")
        with pytest.raises(OutputTakenError, match=r"walk.jsonl: another run has taken it over$"):
            claimed.publish()
    assert owner.read_text() == "other-boot other-host 7 token"  # nor does it clear what is now the other's
    assert not (tmp_path / "a" / "walk.jsonl").exists()
    assert not (tmp_path / "b" / "walk").exists()


def test_a_full_disk_leaves_no_hidden_folder(outputs: tuple[Output, Output], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(SinkError, match=r"walk.jsonl: can't be written: No space left on device$"):
        claim(outputs)
    assert not hidden_folder(outputs[0]).exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"file/walk.jsonl: can't be written: "):
        claim([Output("--json", str(tmp_path / "file" / "walk.jsonl"))])

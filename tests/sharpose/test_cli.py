"""One line for an error, and the agreed exit codes."""

import errno
import signal
import subprocess
import sys

import click
import pytest

from sharpose.cli import main
from sharpose.errors import BundleError, ParityError, SinkError


@pytest.fixture(autouse=True)
def keep_signal_handler():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(action, capsys, arguments=()):
    @click.command()
    @click.option("--count", type=click.IntRange(1), default=1)
    @click.option("--debug", is_flag=True)
    def command(count, debug):
        return action()

    with pytest.raises(SystemExit) as stop:
        main(command, list(arguments))
    return stop.value.code, capsys.readouterr()


def throw(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_exits_with_what_the_callback_returns(capsys, returned, code):
    assert run(lambda: returned, capsys)[0] == code


@pytest.mark.parametrize(("error", "code"), [(BundleError, 2), (ParityError, 1), (SinkError, 3)])
def test_an_error_is_one_line_on_stderr(capsys, error, code):
    found, streams = run(throw(error("first\n  second\tthird")), capsys)
    assert found == code
    assert streams.err == "error: first second third\n"
    assert streams.out == ""


def test_debug_adds_the_traceback_before_the_line(capsys):
    code, streams = run(throw(BundleError("broken")), capsys, ["--debug"])
    assert code == 2
    assert "Traceback" in streams.err
    assert streams.err.endswith("\nerror: broken\n")


@pytest.mark.parametrize(
    ("arguments", "word"), [(["--count", "0"], "0"), (["--nothing"], "--nothing"), (["extra"], "extra")]
)
def test_a_wrong_command_line_is_one_line_and_2(capsys, arguments, word):
    code, streams = run(lambda: 0, capsys, arguments)
    assert code == 2
    assert streams.err.count("\n") == 1
    assert streams.err.startswith("error: ")
    assert word in streams.err


def test_a_defect_is_one_line_and_3(capsys):
    code, streams = run(throw(ZeroDivisionError("oh")), capsys)
    assert code == 3
    assert streams.err == "error: unexpected ZeroDivisionError: oh (a defect in this program; --debug shows where)\n"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 3, "out of memory: MemoryError; give a smaller input"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            3,
            "out of memory: ",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 9), 2, "error: xxxxxxxxx: File name too long\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), 3, "error: a: No space left on device\n"),
    ],
)
def test_what_a_system_or_an_input_makes_fail_is_no_defect(capsys, error, code, words):
    found, streams = run(throw(error), capsys)
    assert found == code
    assert words in streams.err
    assert "defect" not in streams.err
    assert streams.err.count("\n") == 1


def test_nul_in_an_argument(capsys):
    code, streams = run(lambda: 0, capsys, ["a\0b"])
    assert code == 2
    assert streams.err == "error: argument 'a\\x00b': NUL can't stand in a name\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_130(capsys, error):
    code, streams = run(throw(error), capsys)
    assert code == 130
    assert streams.err.lstrip("\n") == "error: interrupted\n"  # click ends the terminal's line of ^C first


def test_sigterm_runs_finally_blocks_and_is_143(capsys):
    cleaned = []

    def action():
        try:
            signal.raise_signal(signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)

    code, streams = run(action, capsys)
    assert (code, streams.err, cleaned) == (143, "error: terminated\n", [True])


def test_help_is_0(capsys):
    code, streams = run(throw(AssertionError("the callback ran")), capsys, ["--help"])
    assert code == 0
    assert "--count" in streams.out


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_closed_pipe_changes_nothing(lines):
    script = (
        "import click, sharpose.cli, sys\n"
        "@click.command()\n"
        "def command():\n"
        "    sys.stdin.readline()\n"
        f"    for _ in range({lines}): print('x' * 100)\n"
        "sharpose.cli.main(command, [])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.write(b"go\n")
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0


def test_a_current_folder_that_was_removed(capsys, tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    code, streams = run(lambda: 0, capsys)
    assert code == 2
    assert streams.err == "error: the current folder was removed: change to another one (cd)\n"

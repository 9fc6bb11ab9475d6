"""Commands as processes: signals at any moment, standard output that is closed or full, and what is left in a home."""

from __future__ import annotations

import fcntl
import json
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from forked_commands import CLOSED, UNREAD, CommandServer

from sharpose import __version__
from sharpose.__main__ import _MODULES
from sharpose.cli import SectionedCommand

RUN = [sys.executable, "-m", "sharpose", "run"]
SHORT = ["scene:people=1,frames=3,size=360x640", "--refine", "never"]


def lines_of(file: Path) -> int:
    return sum(1 for line in file.read_text().splitlines() if json.loads(line))


@pytest.mark.parametrize(
    ("number", "code", "seconds"),
    [
        (signal.SIGINT, 130, 0.1),
        (signal.SIGTERM, 143, 0.25),
        (signal.SIGINT, 130, 0.5),
        (signal.SIGTERM, 143, 0.9),
        (signal.SIGHUP, 129, 0.2),
    ],
)
def test_a_signal_while_modules_are_imported(tmp_path: Path, number: int, code: int, seconds: float) -> None:
    """Whatever is imported at that moment: one line and the agreed code, also where an import would swallow it."""
    command = [*RUN, "scene:people=1,frames=100000,size=360x640", "--refine", "never", "--quiet", "--json", "out.jsonl"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    _wait_for_the_handler(process.pid)
    time.sleep(seconds)
    process.send_signal(number)
    err = process.stderr.read()
    assert process.wait(timeout=60) == code
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 1
    if (tmp_path / "out.jsonl").exists():
        lines_of(tmp_path / "out.jsonl")


def _wait_for_the_handler(pid: int) -> None:
    """Until Python itself has started: before, nothing of ours can answer."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        caught = next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
        )
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)
    raise AssertionError("the command caught no SIGTERM within 30 seconds")


@pytest.mark.parametrize("start", ["-m sharpose run", "-c 'from sharpose.runtime.cli import main; main()'"])
def test_a_closed_standard_output(tmp_path: Path, start: str) -> None:
    command = " ".join([sys.executable, start, *SHORT, "--json", "out.jsonl", ">&-"])
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert lines_of(tmp_path / "out.jsonl") == 3


@pytest.mark.parametrize(
    ("option", "target"),
    [("--json", "-"), ("--csv", "-"), ("--mot", "-"), ("--json", "/dev/stdout"), ("--coco", "/proc/self/fd/1")],
)
def test_results_to_a_closed_standard_output(
    command_server: CommandServer, tmp_path: Path, option: str, target: str
) -> None:
    other = ["--json" if option == "--csv" else "--csv", "other.csv"]
    done = command_server.run("run", [*SHORT, "--track", option, target, *other], tmp_path, stdout=CLOSED)
    assert (done.returncode, done.stderr) == (2, f"error: {option} {target}: standard output is closed\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stderr", [None, UNREAD])
def test_a_table_that_nobody_reads(command_server: CommandServer, tmp_path: Path, stderr: str | None) -> None:
    done = command_server.run("run", [*SHORT, "--json", "out.jsonl"], tmp_path, stdout=UNREAD, stderr=stderr)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines_of(tmp_path / "out.jsonl") == 3


def test_help_and_findings_that_nobody_reads(command_server: CommandServer, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "sharpose", "export", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    done = command_server.run("doctor", [], tmp_path, stdout=UNREAD)
    assert (done.returncode, done.stderr) == (0, "")


def test_results_on_standard_output_that_nobody_reads(command_server: CommandServer, tmp_path: Path) -> None:
    done = command_server.run("run", [*SHORT, "--json", "-"], tmp_path, stdout=UNREAD)
    assert (done.returncode, done.stderr) == (141, "")
    arguments = [*SHORT, "--json", "-", "--csv", "out.csv", "--quiet"]
    done = command_server.run("run", arguments, tmp_path, stdout=UNREAD)
    assert done.returncode == 3
    assert done.stderr == "warning: standard output: can't be written: Broken pipe; the other outputs go on\n"
    assert (tmp_path / "out.csv").read_bytes().startswith(b"frame,time,")


def check_full(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "error: standard output can't be written: No space left on device"
    assert "Traceback" not in done.stderr


def test_a_full_standard_output(command_server: CommandServer, tmp_path: Path) -> None:
    check_full(command_server.run("run", [*SHORT, "--json", "out.jsonl"], tmp_path, stdout="/dev/full"))
    assert lines_of(tmp_path / "out.jsonl") == 3
    check_full(command_server.run("doctor", [], tmp_path, stdout="/dev/full"))


@pytest.mark.parametrize("command", ["run", "export"])
def test_help_to_a_full_standard_output(command: str) -> None:
    with Path("/dev/full").open("w") as full:
        arguments = [sys.executable, "-m", "sharpose", command, "--help"]
        check_full(subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False))


def test_nothing_is_left_in_the_home(tmp_path: Path) -> None:
    """But for what batches cost. ONNX Runtime would write an id of the device and an event into the cache."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in {"ORT_DISABLE_TELEMETRY"}}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": ""}
    done = subprocess.run([*RUN, *SHORT, "--quiet", "--json", "o.jsonl"], env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 0
    ours = home / ".cache" / "sharpose" / "batches"
    assert [str(path) for path in home.rglob("*") if path.is_file() and path.parent != ours] == []


def test_a_home_that_cannot_be_written_adds_no_foreign_line(tmp_path: Path) -> None:
    environment = os.environ | {"HOME": "/proc/1", "XDG_CACHE_HOME": "/proc/1"}
    command = [*RUN, *SHORT, "--json-logs", "--json", "o.jsonl"]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0
    assert all("message" in json.loads(line) for line in done.stderr.splitlines())


def test_a_command_that_is_not_there() -> None:
    done = subprocess.run([*RUN[:3], "fly"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: expected a command, one of run, archive, export, train, eval, doctor")


def test_the_parts_that_python_users_need_come_from_the_top() -> None:
    program = (
        "import sys, sharpose\n"
        "assert 'numpy' not in sys.modules\n"
        "from sharpose import Detector, PoseEstimator, Tracker\n"
        "print(Detector.from_name.__name__, PoseEstimator.__name__, Tracker().settings is not None)\n"
        "sharpose.Nobody\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "from_name PoseEstimator True\n"
    assert done.stderr.endswith("AttributeError: module 'sharpose' has no attribute 'Nobody'\n")


@pytest.mark.parametrize("name", ["run", "archive", "export", "train", "eval", "doctor"])
def test_a_command_says_its_version_and_ends_its_help_with_examples(
    command_server: CommandServer, tmp_path: Path, name: str
) -> None:
    said = command_server.run("evaluate" if name == "eval" else name, ["--version"], tmp_path)
    assert (said.returncode, said.stdout, said.stderr) == (0, f"sharpose {__version__}\n", "")

    command = import_module(_MODULES[name]).command
    assert isinstance(command, SectionedCommand)
    assert len(command.examples) >= 2
    shown = command.get_help(click.Context(command)).partition("\n\nExamples:\n")[2].splitlines()
    assert shown == [f"  {example}" for example in command.examples]
    for example in command.examples:
        program, *arguments = shlex.split(example)
        assert program == f"sharpose-{name}"
        command.make_context(program, arguments)  # every option is one, with a value that it takes


@pytest.mark.parametrize("module", ["sharpose run", "sharpose.runtime.cli"])
def test_the_help_of_a_module_names_its_command(module: str) -> None:
    command = [sys.executable, "-m", *module.split(), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"Usage: python -m {module} [OPTIONS] SOURCE..."


@pytest.mark.parametrize("name", _MODULES)
def test_a_commands_module_runs_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As `python -m sharpose.export.cli` does."""
    started: list[SectionedCommand] = []
    monkeypatch.setattr("sharpose.cli.main", started.append)
    monkeypatch.delitem(sys.modules, _MODULES[name], raising=False)
    runpy.run_module(_MODULES[name], run_name="__main__")
    (command,) = started
    assert command.examples[0].split()[0] == f"sharpose-{name}"


def test_a_terminal_that_closes_ends_a_run_with_whole_files(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    command = [*RUN, "scene:people=1,frames=100000,size=360x640", "--refine", "never", "--json", "out.jsonl"]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True, cwd=tmp_path, preexec_fn=_take_terminal
    )
    os.close(theirs)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "out.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.close(ours)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 129, err
    frames = lines_of(tmp_path / "out.jsonl")
    assert err.endswith(f"warning: interrupted after {frames} frame{'s' * (frames != 1)}; out.jsonl holds those\n")


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


FILES = ["file"]  # what is said where bash is to complete a file's name


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run --refi", ["--refine"]),
        ("run x --precision b", ["bf16"]),
        ("run my", FILES),
        ("run x --json my", FILES),
        ("run x --encoder libvpx", ["libvpx-vp9"]),
        ("run x --detector yolox-t", ["yolox-tiny"]),
        ("export --store-weights fp1", ["fp16"]),
        ("doctor --device a", ["auto"]),
    ],
)
def test_a_command_completes(line: str, expected: list[str]) -> None:
    name, *words = line.split()
    command = import_module(_MODULES[name]).command
    found = ShellComplete(command, {}, f"sharpose-{name}", "").get_completions(words[:-1], words[-1])
    assert [one.value if one.type == "plain" else one.type for one in found] == expected


@pytest.mark.parametrize(
    ("program", "completed"),
    [
        ("sharpose-run", {"--refi": ["--refine"], "x --detector my": ["my_video.mp4"]}),
        ("sharpose-archive", {"x --engine r": ["ray"]}),
        ("sharpose-train", {"sharpose_tiny_ship": ["sharpose_tiny_shipped"]}),
        ("sharpose-export", {"--config sharpose_tiny": ["sharpose_tiny_coco_256x192"]}),
        ("sharpose-eval", {"--ignore": ["--ignore-weak"]}),
        ("sharpose-doctor", {"--detector-d": ["--detector-device"]}),
    ],
)
def test_bash_completes_the_installed_commands(tmp_path: Path, program: str, completed: dict[str, list[str]]) -> None:
    """As the documentation sets it up; file names are left to bash, which `compgen` stands for."""
    (tmp_path / "my_video.mp4").touch()
    if shutil.which(program, path=Path(sys.executable).parent) is None:
        pytest.skip(f"{program} isn't installed: pip install --editable .")
    name = program.removeprefix("sharpose-")
    script = (
        f'eval "$(env _SHARPOSE_{name.upper()}_COMPLETE=bash_source {program})"\n'
        'compopt() { COMPREPLY=($(compgen -f "${COMP_WORDS[COMP_CWORD]}")); }\n'
    )
    for words in completed:
        script += (
            f"COMP_WORDS=({program} {words}) COMP_CWORD={len(words.split())} COMPREPLY=()\n"
            f"_sharpose_{name}_completion {program}\n"
            'echo "${COMPREPLY[@]}"\n'
        )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ([line.split() for line in done.stdout.splitlines()], done.stderr) == (list(completed.values()), "")

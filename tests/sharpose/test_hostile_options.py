"""Every option of every command, from click's own lists, with values that mean nothing: one line and exit code 2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module

import click
import pytest

from sharpose.cli import DEVICE, main

COMMANDS = {
    "run": "sharpose.runtime.cli",
    "export": "sharpose.export.cli",
    "train": "sharpose.training.train_cli",
    "eval": "sharpose.training.eval_cli",
    "doctor": "sharpose.runtime.doctor.cli",
}
NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "1" + "0" * 400,
    "-1" + "0" * 400,
    "1" + "0" * 5000,
    "1e400",
    "1_000",
    "١٢",  # digits of another script
    " 5 ",
    "0x10",
    "five",
    "a\0b",
    "",
]
SIZES = ["x", "0x5", "5x0", "-1x5", "99999x99999", "٤x٥", "4.0x5", "4x5x6", "4 x 5", "nanxnan"]


def options_of(command: str) -> list[click.Parameter]:
    found = import_module(COMMANDS[command]).command
    assert isinstance(found, click.Command)
    return found.params


def cases() -> Iterator[tuple[str, str, str]]:
    """Command, option and value that must be refused while the command line is read."""
    for command in COMMANDS:
        for parameter in options_of(command):
            kind = parameter.type
            if not isinstance(parameter, click.Option) or parameter.is_flag:
                continue
            values = ["", "a\0b"]
            if isinstance(kind, click.IntRange | click.FloatRange):
                values = list(NUMBERS)
                values += ["-1", "-0.5"] if kind.min is not None and kind.min >= 0 else []
                values += ["-0"] if kind.min is not None and (kind.min > 0 or kind.min_open) else []
                values += ["0.5"] if isinstance(kind, click.IntRange) else []
            elif kind.name == "HxW":
                values += SIZES
            elif isinstance(kind, click.Choice):
                values += ["nan", "other", next(iter(kind.choices)) + " "]
            for value in values:
                yield command, parameter.opts[0], value


@pytest.mark.parametrize(("command", "option", "value"), list(cases()), ids=lambda text: repr(text[:12]))
def test_a_value_that_means_nothing(
    command: str, option: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = import_module(COMMANDS[command]).command
    monkeypatch.setattr(found, "callback", lambda **values: pytest.fail(f"taken as {values}"))
    argument = ["x"] if any(isinstance(parameter, click.Argument) for parameter in found.params) else []
    required = ["--output", "folder"] if command == "eval" and option != "--output" else []
    with pytest.raises(SystemExit) as stop:
        main(found, [*argument, *required, option, value])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 300
    assert "defect" not in err
    assert option in err or "\0" in value


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_are_of_kinds_that_refuse_what_is_none(command: str) -> None:
    """click's own numbers take NaN, infinity, `1_000` and digits of other scripts."""
    for parameter in options_of(command):
        kind = parameter.type
        assert type(kind) not in (
            click.IntRange,
            click.FloatRange,
            click.types.IntParamType,
            click.types.FloatParamType,
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_its_section(command: str) -> None:
    """Those that have none are click's own, which take an empty text."""
    for parameter in options_of(command):
        assert isinstance(parameter, click.Argument) or hasattr(parameter, "section")


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("run", "--quality-threshold 0.5 --refine always", "--quality-threshold is for --refine auto"),
        ("run", "--quality-threshold 0.5 --refine never", "--quality-threshold is for --refine auto"),
        ("run", "--deadline 40 --refine never", "--deadline is for --refine auto or always"),
        ("run", "--engine-cache x", "--engine-cache is for --device tensorrt or ort-tensorrt, got"),
        ("run", "--cuda-bindings pycuda --device cuda", "--cuda-bindings is for --device tensorrt, got --device cuda"),
        ("run", "--no-cuda-graphs", "error: --no-cuda-graphs is for --device tensorrt"),
        ("run", "--cuda-graphs", "error: --cuda-graphs is for --device tensorrt"),
        ("run", "--draw-regions --output o.mp4 --refine never", "--draw-regions is for --refine auto or always"),
        ("run", "--timings --quiet", "--timings and --quiet exclude each other"),
        ("run", "--crf 5 --bitrate 5000 --output o.mp4", "--crf and --bitrate exclude each other"),
        ("run", "- -", "- and -: standard input can be read once only"),
        ("run", "- --boxes /dev/stdin", "- and /dev/stdin: standard input can be read once only"),
        ("run", "--json a --json b", "--json: given 2 times; give it once"),
        ("run", "--overwrite --no-overwrite", "--overwrite/--no-overwrite: given 2 times; give it once"),
        ("export", "--random-weights --output o --precision fp32,fp32", "'fp32,fp32' repeats a precision"),
        ("run", "--threads 2 --device tensorrt", "--threads does nothing on --device tensorrt"),
        ("run", "--detect-every 2 --full-frame", "--detect-every is for --detector"),
        ("run", "--detector-sha256 trust --full-frame", "--detector-sha256 is for --detector NAME"),
        ("run", "--detector-sha256 trust --detector motion", "--detector-sha256 is for --detector NAME"),
        ("run", "--detector-table x --boxes b", "--detector-table is for --detector NAME"),
        ("run", "--encoder h265 --json o", "--encoder is for --output"),
        ("run", "--crf 20 --frames o", "--crf is for --output"),
        ("run", "--bitrate 5000", "--bitrate is for --output"),
        ("run", "--preset slow --show", "--preset is for --output"),
        ("run", "--frames-format png --output o.mp4", "--frames-format is for --frames"),
        ("run", "--kpt-thr 0.5 --json o", "--kpt-thr is for annotated pictures"),
        ("run", "--draw-status --coco o", "--draw-status is for annotated pictures"),
        ("run", "--draw-regions", "--draw-regions is for annotated pictures"),
        ("run", "--serve-token sixteen-characters", "--serve-token is for --serve"),
        ("run", "--smooth", "give --track as well"),
        ("run", "--mot o.txt", "give --track as well"),
        ("run", "--quiet --json-logs", "--quiet and --json-logs exclude each other"),
        ("export", "--checkpoint c --output o --seed 1", "--seed is for --random-weights"),
        ("export", "--bundle b --verify --seed 1", "--seed and --bundle exclude each other"),
        ("export", "--bundle b --tensorrt --images i", "--images needs --verify where nothing is exported"),
        ("export", "--bundle b --verify --overwrite", "--overwrite and --bundle exclude each other"),
        ("export", "--bundle b --verify --max-batch 2", "--max-batch needs --tensorrt"),
        (
            "export",
            "--checkpoint c --output o --precision fp32,bf16",
            "--precision bf16: no graphs or engines are made",
        ),
        ("export", "--bundle b --tensorrt --precision bf16", "--precision bf16: no graphs or engines are made"),
        ("export", "--checkpoint c --output o --opt-batch 2", "--opt-batch needs --tensorrt"),
        ("export", "--checkpoint c --output o --labels l", "--labels needs --verify"),
        ("export", "--checkpoint c --random-weights --output o", "exclude each other"),
        ("train", "--list tiny", "--list and CONFIG exclude each other"),
        ("train", "--list --set a=1", "--list and --set exclude each other"),
        ("train", "--list --resume", "--list and --resume exclude each other"),
        ("train", "x --data . --work-dir w --resume --init i", "--resume and --init exclude each other"),
        ("eval", "--data d --output o --seed 1", "--seed is for --choose-threshold"),
        (
            "eval",
            "--data d --output o --bundle b --choose-threshold ap-loss<=1 --quality-threshold 1",
            "--quality-threshold and --choose-threshold exclude each other",
        ),
        ("eval", "--data d --output o --device tensorrt --threads 2", "--threads does nothing on --device tensorrt"),
        ("eval", "--data d --output o --bundle b --checkpoint c", "--bundle and --checkpoint exclude each other"),
        ("eval", "--data d --output o --checkpoint c --precision int8", "--precision is for bundles: a checkpoint is"),
        ("eval", "--data d --output o --config c", "--config goes with --checkpoint"),
        ("eval", "--data d --output o --annotations a --images i", "expected either --data DIR, or --annotations"),
    ],
)
def test_an_option_that_would_do_nothing(
    command: str, arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["scene"] if command == "run" else []
    with pytest.raises(SystemExit) as stop:
        main(import_module(COMMANDS[command]).command, [*source, *arguments.split()])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_one_value_is_refused_the_second_time(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = import_module(COMMANDS[command]).command
    monkeypatch.setattr(found, "callback", lambda **values: None)
    argument = ["x"] if any(isinstance(parameter, click.Argument) for parameter in found.params) else []
    for parameter in found.params:
        if not isinstance(parameter, click.Option) or parameter.is_eager:
            continue
        required = ["--output", "folder"] if command == "eval" and parameter.opts[0] != "--output" else []
        value = [] if parameter.is_flag else [_good_value(parameter)]
        once = [parameter.opts[0], *value]
        harmless = parameter.multiple or (parameter.is_flag and not parameter.secondary_opts)
        for times, code in ((1, 0), (2, 0 if harmless else 2)):
            with pytest.raises(SystemExit) as stop:
                main(found, [*argument, *required, *once * times])
            err = capsys.readouterr().err
            assert stop.value.code == code, err
            assert code == 0 or err.endswith(": given 2 times; give it once\n")


def _good_value(option: click.Option) -> str:
    kind = option.type
    if kind is DEVICE:
        return "cpu"
    if isinstance(kind, click.Choice):
        return str(next(iter(kind.choices)))
    if isinstance(kind, click.IntRange | click.FloatRange):
        return str(int(kind.min or 0) + (1 if kind.min_open else 0))
    others = {"--precision": "fp32", "--detector-mean": "1,2,3", "--detector-std": "1,2,3"}
    return "8x8" if kind.name == "HxW" else others.get(option.opts[0], "1")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_shows_no_bound_that_is_none(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(import_module(COMMANDS[command]).command, ["--help"])
    out = capsys.readouterr().out
    assert not re.search(r"None|x[<>]|[<>]=?x|RANGE|TEXT|PATH\b", out)
    if command == "run":
        assert "[at least 1]" in out


@pytest.mark.parametrize(("command", "rest"), [("run", ["x"]), ("eval", ["--output", "o"])])
def test_threads_are_at_most_four_a_core(
    command: str, rest: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand take minutes to start."""
    found = import_module(COMMANDS[command]).command
    monkeypatch.setattr(found, "callback", lambda **values: values["threads"] == 12)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    with pytest.raises(SystemExit) as stop:
        main(found, [*rest, "--threads", "13"])
    assert stop.value.code == 2
    assert "'--threads': expected at most 12 on this machine of 3 cores, got 13" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(found, [*rest, "--threads", "12"])
    assert stop.value.code == 1

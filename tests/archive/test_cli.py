"""The command line of `sharpose-archive`: that of `sharpose-run`, but for what makes no sense in an archive."""

from __future__ import annotations

import click
import pytest

from sharpose.archive.cli import command
from sharpose.archive.options import ArchiveOptions, Shard
from sharpose.runtime.cli import command as sharpose_run

NEEDED = ["v", "--json", "{source}.jsonl"]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[ArchiveOptions]:
    """What `archive` was called with."""
    found: list[ArchiveOptions] = []
    monkeypatch.setattr("sharpose.archive.run.archive", found.append)
    return found


def call(*arguments: str) -> None:
    command.main([*NEEDED, *arguments], standalone_mode=False)


def test_options_of_a_run_have_the_same_meaning(parsed: list[ArchiveOptions], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARPOSE_SERVE_TOKEN", "of another command")
    call("--track", "--stride", "3", "--crf", "20", "--output", "a-{source}.mp4", "--output", "b-{source}.mkv")
    (options,) = parsed
    assert (options.shard, options.workers, options.engine, options.retries) == (Shard(0, 1), None, "local", 2)
    assert (options.run.track, options.run.reading.stride, options.run.video.crf) == (True, 3, 20)
    assert options.run.serve_token is None
    assert options.run.outputs == (
        ("--output", "a-{source}.mp4"), ("--output", "b-{source}.mkv"), ("--json", "{source}.jsonl")
    )  # fmt: skip
    call("--server", "http://host:8000/sharpose", "--shard", "7/8", "--workers", "3", "--retries", "0")
    assert parsed[1].run.remote.server == "http://host:8000/sharpose"
    assert (parsed[1].shard, parsed[1].workers, parsed[1].retries) == (Shard(7, 8), 3, 0)


def test_every_option_of_a_run_is_taken_or_refused() -> None:
    ours = {name for parameter in command.params for name in parameter.opts}
    assert {name for parameter in sharpose_run.params for name in parameter.opts} <= ours
    shown = command.get_help(click.Context(command))
    assert all(f"  {name}" in shown for name in ("--shard i/n", "--json FILE", "--server URL", "--hwaccel KIND"))
    assert not any(f"  {name}" in shown for name in ("--serve ", "--show", "--reconnect", "--overwrite", "--deadline"))


@pytest.mark.parametrize(
    "given",
    [
        "--buffer all", "--reconnect 3", "--timeout 3", "--rtsp-transport tcp", "--deadline 40", "--stdin-size 9x9",
        "--stdin-rate 5", "--show", "--serve 80", "--serve-token x", "--overwrite", "--no-overwrite", "--timings",
    ],
)  # fmt: skip
def test_options_for_other_runs_are_refused(parsed: list[ArchiveOptions], given: str) -> None:
    option = given.split()[0]
    with pytest.raises(click.UsageError) as raised:
        call(*given.split())
    assert raised.value.message.startswith(f"{option} ")
    assert raised.value.message.endswith("; leave it out")
    assert "\n" not in raised.value.message
    assert parsed == []


@pytest.mark.parametrize("given", ["3/3", "1/0", "0/0", "-1/3", "1", "1/3/5", "a/3", "0.5/3", "1 / 3"])
def test_shards_count_from_zero(parsed: list[ArchiveOptions], given: str) -> None:
    with pytest.raises(click.BadParameter, match=r"^expected i/n with i from 0 to n-1, such as 0/3, 1/3 and 2/3, got "):
        call("--shard", given)
    assert parsed == []

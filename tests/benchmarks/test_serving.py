"""`python benchmarks/serving.py`, with a small server of the protocol."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from measuring import turns
from v2_server import V2Server, served_by_engines

from sharpose.cli import main

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "serving.py"


@pytest.fixture(scope="module")
def serving() -> Iterator[ModuleType]:
    """The script as a module; its name alone is that of a folder of the product."""
    spec = importlib.util.spec_from_file_location("benchmark_of_serving", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def server(nano_bundle: Path) -> Iterator[V2Server]:
    with V2Server(**served_by_engines(nano_bundle)) as found:
        yield found


def test_both_parts_have_their_rows(
    serving: ModuleType, server: V2Server, nano_bundle: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(turns, "_TURN_S", 0.0)
    words = ["--server", server.url, "--bundle", str(nano_bundle), "--crops", "1,3", "--refine", "50"]
    with pytest.raises(SystemExit) as stopped:
        main(serving.command, [*words, "--streams", "2", "--seconds", "0.05", "--output", str(tmp_path)])
    assert (stopped.value.code, capsys.readouterr().err) == (0, "")
    parts = json.loads((tmp_path / "serving.json").read_text("utf-8"))["parts"]
    assert [(row["crops"], row["refined %"]) for row in parts["crops"]] == [(1, 50), (3, 50)]
    for row in parts["crops"]:
        low, high = map(float, row["95 % interval"].split(" to "))
        assert low - 0.01 <= row["difference ms"] <= high + 0.01
        assert row["in process ms"] > 0
        assert row["server ms"] > 0
    (streams,) = parts["streams"]
    assert streams["streams"] == 2
    assert streams["in process frames/s"] > 0
    assert 0 < streams["server p50 ms"] <= streams["server p95 ms"]
    assert streams["server frames/s"] > 0
    assert streams["requests an execution"] == 1.0  # this server makes no batches
    page = (tmp_path / "serving.md").read_text("utf-8")
    assert "nano on cpu in fp32, here and on the server." in page
    assert "\n## crops\n" in page
    assert "\n## streams\n" in page
    assert f"--server {server.url}" in page


def test_the_columns_of_crops_and_their_difference_fit(serving: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of the machine in one turn of six is in none of them."""
    pairs = ((serving._HERE, [2.0, 2.0, 99.0, 2.0, 2.0, 2.0]), (serving._THERE, [5.0] * 6))
    times = {name: turns.Times([{"end_to_end": [ms]} for ms in means]) for name, means in pairs}
    measured = object.__new__(serving.Serving)
    measured._effort = serving.Effort(crops=(1,), percents=(100,))
    measured._local = measured._remote = None
    monkeypatch.setattr(serving, "take_turns", lambda *_, **__: times)
    (row,) = measured.crops()
    assert (row["in process ms"], row["server ms"], row["difference ms"]) == (2.0, 5.0, 3.0)


def test_a_stream_that_ended_early_idles_in_no_rate(serving: ModuleType) -> None:
    assert serving._rate([[0.125] * 8, [0.5, 0.5], []]) == 10.0


def test_as_many_are_refined_as_a_row_says(serving: ModuleType, server: V2Server, nano_bundle: Path) -> None:
    with serving.RemotePoseEstimator(server.url) as remote, serving.PoseEstimator(nano_bundle, threads=1) as local:
        for estimator in (remote, local):
            seen: list[int] = []
            inner = estimator._estimate

            def noted(pictures, chosen, inner=inner, seen=seen):
                results = inner(pictures, chosen)
                seen.append(int(results[0].refined.sum()))
                return results

            estimator._estimate = noted
            frame = serving._frame(estimator, 3)
            assert [frame(refined)["end_to_end"] > 0 for refined in (0, 2, 3)] == [True] * 3
            assert seen[-3:] == [0, 2, 3]  # after those of the warm-up


def test_a_server_without_statistics_is_measured_all_the_same(serving: ModuleType, server: V2Server) -> None:
    assert serving.served_counts(server.url) == (server.answered, server.answered)
    assert serving.served_counts(server.url.replace("sharpose", "other")) is None
    assert serving.served_counts("grpc://127.0.0.1:1/sharpose") is None


def test_a_stream_that_fails_ends_the_benchmark(
    serving: ModuleType, server: V2Server, nano_bundle: Path, tmp_path: Path, capsys
) -> None:
    server.acts = [400]
    words = ["--server", server.url, "--bundle", str(nano_bundle), "--parts", "streams", "--streams", "2"]
    with pytest.raises(SystemExit) as stopped:
        main(serving.command, [*words, "--output", str(tmp_path)])
    server.acts = []
    assert stopped.value.code != 0
    assert "told to say 400" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "expected --server URL, or --start"),
        (["--start", "--server", "http://127.0.0.1:1/sharpose"], "expected --server URL, or --start"),
        (["--server", "http://127.0.0.1:1/sharpose", "--crops", "0"], "numbers from 1 to 1024"),
        (["--server", "ftp://127.0.0.1"], "server: expected http://"),
    ],
)
def test_bad_options_are_one_line(serving: ModuleType, words: list[str], error: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(serving.command, ["--output", str(tmp_path), *words])
    said = capsys.readouterr().err
    assert (stopped.value.code, said.count("\n")) == (2, 1)
    assert error in said

"""One worker with a real estimator: what it does with a video, what it says of it, and what it leaves alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cli_files import lines_of, write_video
from v2_server import served_by_engines, v2_server

from sharpose.archive import worker as working
from sharpose.archive.claims import claim, hidden_folder
from sharpose.archive.plan import Video
from sharpose.archive.worker import VideoWorker
from sharpose.errors import BundleError, DetectorError, EngineError, InputError
from sharpose.runtime.options import RunOptions, VideoSettings
from sharpose.runtime.remote.options import ServerOptions
from sharpose.runtime.sinks.outputs import Output
from sharpose.serving.client import client

OUTPUTS = (("--json", "{source}.jsonl"), ("--openpose", "{source}"))


@pytest.fixture(scope="module")
def options(nano_bundle: Path) -> RunOptions:
    return RunOptions(("v",), outputs=OUTPUTS, bundle=nano_bundle, full_frame=True, batch=1, threads=1)


@pytest.fixture(scope="module")
def worker(options: RunOptions) -> Iterator[VideoWorker]:
    made = VideoWorker(options)
    yield made
    made.close()


@pytest.fixture
def video(tmp_path: Path) -> Video:
    path = write_video(tmp_path / "walk.mp4", 5)
    return Video(str(path), "walk", tuple(Output(option, str(tmp_path / f"walk{end}")) for option, end in
                 (("--json", ".jsonl"), ("--openpose", ".poses"))))  # fmt: skip


def test_a_video_is_made_once(worker: VideoWorker, video: Video, tmp_path: Path) -> None:
    shares: list[tuple[int, int | None]] = []
    result = worker.run(video, lambda frames, total: shares.append((frames, total)))
    assert (result.state, result.frames, result.people, result.reason, result.warnings) == ("done", 5, 5, "", ())
    assert shares == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert [line["frame"] for line in lines_of(tmp_path / "walk.jsonl")] == [0, 1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "walk.poses").iterdir()) == [
        f"walk_{index:012d}_keypoints.json" for index in range(5)
    ]
    stamp = (tmp_path / "walk.jsonl").stat().st_mtime_ns
    again = worker.run(video)  # as where another run has made it since this one looked
    assert (again.state, again.frames) == ("skipped", 0)
    assert (tmp_path / "walk.jsonl").stat().st_mtime_ns == stamp


def test_markers_and_motions_are_whole_before_they_have_their_names(
    worker: VideoWorker, video: Video, tmp_path: Path
) -> None:
    targets = {"--trc": tmp_path / "walk-markers", "--angles": tmp_path / "walk.mot"}
    video = replace(video, outputs=tuple(Output(option, str(target)) for option, target in targets.items()))
    assert worker.run(video).state == "done"
    folder, motion = targets.values()
    assert sorted(path.name for path in folder.iterdir()) == ["walk_people.csv", "walk_person00.trc"]
    assert len((folder / "walk_person00.trc").read_text().splitlines()) == 6 + 5
    assert "nRows=5" in motion.read_text()
    assert worker.run(video).state == "skipped"


def test_what_another_run_has_just_made_or_is_making(
    worker: VideoWorker, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    with claim(video.outputs[1:]):
        hidden = hidden_folder(video.outputs[1])
        owner = (hidden / "owner").read_text()
        result = worker.run(video)
        assert (result.state, result.frames) == ("taken", 0)
        assert (
            result.reason
            == f"{video.outputs[1].target}: is being written by another run, process {os.getpid()} on "
            + (owner.split()[1])
        )
        assert (hidden / "owner").read_text() == owner

    def made_meanwhile(outputs: tuple[Output, ...]) -> object:
        Path(video.outputs[0].target).write_text("of another run")
        return claim(outputs)

    monkeypatch.setattr(working, "claim", made_meanwhile)
    assert worker.run(video).state == "taken"  # one is still to be made
    assert Path(video.outputs[0].target).read_text() == "of another run"
    assert not hidden.exists()


def test_an_engine_that_fails_is_worth_another_try(
    worker: VideoWorker, video: Video, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise EngineError(f"{video.path}: the GPU is gone")

    monkeypatch.setattr(worker._engines.estimator, "estimate", fail)
    result = worker.run(video)
    assert (result.state, result.retry, result.reason, result.partial) == ("failed", True, "the GPU is gone", ())

    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(worker._engines.estimator, "estimate", defect)
    result = worker.run(video)
    assert (result.state, result.retry) == ("failed", True)
    assert "oh" in result.reason
    monkeypatch.undo()
    Path(video.path).write_text("no video")
    result = worker.run(video)
    assert (result.state, result.retry) == ("failed", False)
    assert [path.name for path in tmp_path.iterdir()] == ["walk.mp4"]


def test_a_server_may_run_the_model(
    worker: VideoWorker,
    options: RunOptions,
    video: Video,
    nano_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_GONE_WAITS", (0.001, 0.002))
    assert worker.run(video).state == "done"
    local = (tmp_path / "walk.jsonl").read_bytes()
    video = replace(video, outputs=(Output("--json", str(tmp_path / "served.jsonl")),))
    with v2_server(**served_by_engines(nano_bundle)) as server:
        remote, said = ServerOptions(server=server.url, server_tries=2), list[str]()
        served = VideoWorker(replace(options, remote=remote, batch=None, threads=None), said.append)
        server.acts = ["poses", 500]
        result = served.run(video)
        assert (result.state, result.frames, result.people, result.warnings) == ("done", 5, 5, ())
        assert said[0] == f"{server.url}: answers 500: told to say 500; trying again"
        assert said[1].startswith(f"{server.url}: answers again, after ")
        assert (tmp_path / "served.jsonl").read_bytes() == local
        (tmp_path / "served.jsonl").unlink()
        server.acts = ["poses", 400]
        result = served.run(video)
        assert (result.state, result.frames, result.retry, result.server) == ("failed", 1, False, "refuses")
        assert result.partial == (str(tmp_path / "served.partial.jsonl"),)
        (tmp_path / "served.partial.jsonl").unlink()
    result = served.run(video)
    assert (result.state, result.frames, result.retry, result.server) == ("failed", 0, True, "gone")
    assert server.url.removeprefix("http://").partition("/")[0] in result.reason
    assert not (tmp_path / "served.jsonl").exists()
    served.close()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"bundle": Path("none")}, BundleError, "bundle none: expected a folder"),
        ({"outputs": (("--output", "o/{folder}/{source}.avi"),)}, InputError, "--output o/{folder}/{source}.avi: exp"),
        (
            {"outputs": (("--output", "o/{source}.mp4"),), "video": VideoSettings(encoder="nope")},
            InputError,
            "video encoder nope: not usable here",
        ),
        ({"conf": 0.5}, InputError, "--conf would do nothing here: the full frame is one person"),
        ({"full_frame": False, "detector": "none.onnx"}, DetectorError, "none.onnx"),
    ],
)
def test_bad_options_are_found_before_the_first_video(
    options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object],
    error: type[Exception], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    values = {**vars(options), **changes}
    with pytest.raises(error, match=re.escape(message)):
        VideoWorker(RunOptions(**values))
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_is_gone(worker: VideoWorker, video: Video) -> None:
    Path(video.path).unlink()
    result = worker.run(video)
    assert (result.state, result.retry, result.reason) == ("failed", False, "there is no such file")


def test_missing_boxes_are_not_tried_again(options: RunOptions, video: Video, tmp_path: Path) -> None:
    worker = VideoWorker(replace(options, full_frame=False, boxes=str(tmp_path / "{source}.json")))
    result = worker.run(video)
    worker.close()
    assert (result.state, result.retry) == ("failed", False)
    assert "walk.json" in result.reason

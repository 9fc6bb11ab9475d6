"""Which videos an archive has, in which order, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest

from sharpose.archive import plan as planning
from sharpose.archive.options import Shard
from sharpose.archive.plan import Plan, make_plan
from sharpose.errors import InputError
from sharpose.runtime.options import RunOptions

ALL = Shard()
JSON = ("--json", "out/{source}.jsonl")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    monkeypatch.chdir(tmp_path)

    def make(
        *sources: str,
        to: tuple[tuple[str, str], ...] = (JSON,),
        shard: Shard = ALL,
        boxes: str | None = None,
        report: str | None = None,
    ) -> Plan:
        where = None if report is None else Path(report)
        return make_plan(RunOptions(sources, outputs=to, boxes=boxes), shard, said.append, where)

    said: list[str] = []
    make.said = said  # type: ignore[attr-defined]
    return make


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"not looked into")


def paths(plan: Plan) -> list[str]:
    return [video.path for video in plan.videos]


def test_sources_are_sorted_by_name_and_taken_once(plan: Callable[..., Plan], tmp_path: Path) -> None:
    touch(
        "b/walk.mp4", "a/zebra.mp4", "a/10.mkv", "a/2.mp4", "c/deep/run.mov", "a/.hidden.mp4", "a/notes.txt", "a/0.png"
    )
    Path("link").symlink_to("a")
    Path("list.txt").write_text(f"# a comment\n\nb/walk.mp4\n{tmp_path}/b/../b/walk.mp4\nb/gone.mp4\n")
    made = plan("link", "a", "./b/walk.mp4", "@list.txt", "c/**/*.mov")
    assert paths(made) == [
        "link/10.mkv",
        "link/2.mp4",
        "b/gone.mp4",
        "c/deep/run.mov",
        "./b/walk.mp4",
        "link/zebra.mp4",
    ]
    assert [video.outputs[0].target for video in made.videos[:2]] == ["out/10.jsonl", "out/2.jsonl"]
    left_out = "1 file that is neither a picture nor a video: .txt; 1 picture; sharpose-run reads those"
    assert plan.said == [f"link: left out {left_out}", f"a: left out {left_out}"]  # type: ignore[attr-defined]
    assert not Path("out").exists()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_shards_are_disjoint_and_complete(plan: Callable[..., Plan], count: int) -> None:
    touch(*(f"v/{number}.mp4" for number in range(7)))
    shards = [plan("v", shard=Shard(index, count)) for index in range(count)]
    assert sorted(path for shard in shards for path in paths(shard)) == [f"v/{number}.mp4" for number in range(7)]
    assert {shard.total for shard in shards} == {7}
    sizes = [len(shard.videos) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert paths(plan("v/6.mp4", "v/[0-5].mp4", shard=Shard(0, count))) == paths(shards[0])


def test_a_video_is_done_with_all_its_results(plan: Callable[..., Plan]) -> None:
    touch("v/a.mp4")
    to = (JSON, ("--frames", "out/{source}"))
    touch("out/a.jsonl")
    Path("out/a").mkdir()
    (video,) = plan("v", to=to).videos
    assert [output.option for output in video.missing] == ["--frames"]
    touch("out/a/a_000000000000.jpg")
    assert video.missing == ()


def test_colliding_names_are_refused_whatever_the_shard(plan: Callable[..., Plan]) -> None:
    touch("a/walk.mp4", "b/walk.mp4", *(f"c/{number}.mp4" for number in range(9)))
    for index in range(3):
        with pytest.raises(InputError, match=r"^a/walk.mp4 and b/walk.mp4: both are called walk, and so would be"):
            plan("a", "b", "c", shard=Shard(index, 3))
    touch("d/run.mp4", "d/run.mkv")
    with pytest.raises(InputError, match=r"d/run.mkv and d/run.mp4: both are called run"):
        plan("d")
    touch("e/x.mp4", "e/x.partial.mp4")
    with pytest.raises(
        InputError,
        match=r"^out/x.partial.jsonl: this result would have the name of another's partial one; rename the video",
    ):
        plan("e")


def test_names_that_differ_in_case_are_refused_where_the_file_system_ignores_it(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    touch("v/Walk.mp4", "v/walk.mp4")
    if len(list(Path("v").iterdir())) == 1:
        pytest.skip("the file system here ignores case")
    assert len(plan("v").videos) == 2
    assert not list(Path().glob(".*"))
    monkeypatch.setattr(planning, "_ignores_case", lambda folder: folder == Path("out"))
    with pytest.raises(InputError, match=r"^Walk and walk: these names of videos differ in case alone"):
        plan("v")


@pytest.mark.parametrize(
    ("sources", "to", "message"),
    [
        (["v"], (), "expected an output such as"),
        (["v"], (("--json", "out.jsonl"),), "2 sources can't share one output; put {source} into its name"),
        (["v"], (("--json", "{name}-{source}"),), "{name}: expected no word in braces but {source}"),
        (["v"], (("--json", "-"),), "--json -: expected a file or folder, got standard output"),
        (["v"], (("--json", "/dev/null"),), "--json /dev/null: expected a file or folder, found a special file"),
        (["v"], (("--output", "rtsp://me:secret@x/{source}"),), r"--output rtsp://\*\*\*@x/{source}: expected a file"),
        (["v"], (("--output", "v/{source}.mp4"),), "output v/1.mp4 would overwrite the source"),
        (["v"], (("--output", "v/{source}.x.mp4"),), "lies among the source's videos"),
        (["v"], (("--frames", "o/{source}"), ("--csv", "o/{source}/p.csv")), "lies in the folder of --frames"),
        (["v", "0"], (JSON,), "^0: expected a video, a folder or glob of videos, or @FILE, .* found nothing"),
        (["rtsp://me:secret@cam/1"], (JSON,), r"^rtsp://\*\*\*@cam/1: expected a video, .* found an address"),
        (["scene"], (JSON,), "^scene: expected a video"),
        (["-"], (JSON,), "^-: expected a video"),
        (["v/gone.mp4"], (JSON,), "^v/gone.mp4: expected a video, .* found nothing"),
        (["p"], (JSON,), "^p: expected a video, .* found no video, but 1 picture"),
        (["p/0.png"], (JSON,), "^p/0.png: expected a video, .* found a picture"),
        (["@none.txt"], (JSON,), "^@none.txt: expected a list of videos, a line each: No such file"),
        (["@list.txt"], (JSON,), "^list.txt, line 2: rtsp://x: expected a video"),
        (["@empty.txt"], (JSON,), "^@empty.txt: expected a video, .* found a list without one"),
    ],
)
def test_what_is_refused_before_any_work(
    plan: Callable[..., Plan], sources: list[str], to: tuple[tuple[str, str], ...], message: str
) -> None:
    touch("v/1.mp4", "v/2.mp4", "p/0.png")
    Path("list.txt").write_text("v/1.mp4\nrtsp://x\n")
    Path("empty.txt").write_text("# nothing\n")
    with pytest.raises((InputError, click.UsageError), match=message.replace("{", r"\{")):
        plan(*sources, to=to)
    assert sorted(path.name for path in Path().iterdir()) == ["empty.txt", "list.txt", "p", "v"]


def test_boxes_are_not_shared(plan: Callable[..., Plan]) -> None:
    touch("v/1.mp4", "v/2.mp4")
    with pytest.raises(click.UsageError, match=r"^--boxes b.json: 2 videos can't share one file of boxes"):
        plan("v", boxes="b.json")
    assert len(plan("v", boxes="{source}.json").videos) == 2


def test_a_video_that_is_called_as_a_partial_result_is_refused_alone_too(plan: Callable[..., Plan]) -> None:
    touch("e/x.partial.mp4")
    with pytest.raises(InputError, match=r"^out/x.partial.jsonl: .*; rename the video$"):
        plan("e")
    with pytest.raises(InputError, match=r"^out/x.partial: .*; rename the video$"):
        plan("e", to=(("--frames", "out/{source}"),))


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ("e/x.mp4", r"^output e/x.mp4 would overwrite the source; give another name$"),
        ("./list.txt", r"^--report list.txt would overwrite the list of videos; give another name$"),
        ("out/y.jsonl", r"^--report out/y.jsonl would overwrite out/y.jsonl, a result of --json; give another name$"),
        ("out/y.partial.jsonl", r"^--report out/y.partial.jsonl would overwrite out/y.jsonl, a result of --json"),
        ("frames/x/report.json", r"would overwrite frames/x, a result of --frames"),
        ("b/x.json", r"^output b/x.json would overwrite the input b/x.json"),
    ],
)
def test_a_report_replaces_nothing_that_is_read_or_another_result(
    plan: Callable[..., Plan], report: str, message: str
) -> None:
    touch("e/x.mp4", "e/y.mp4", "b/x.json", "b/y.json")
    Path("list.txt").write_text("e/x.mp4\n")
    to = (JSON, ("--frames", "frames/{source}"))
    with pytest.raises(InputError, match=message):
        plan("e", "@list.txt", to=to, boxes="b/{source}.json", report=report)
    touch("report.json")
    assert len(plan("e", "@list.txt", to=to, boxes="b/{source}.json", report="report.json").videos) == 2

"""Which videos an archive has, in which order, and what is refused before any work."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import click
import pytest

from sharpose.archive import plan as planning
from sharpose.archive.options import Shard
from sharpose.archive.plan import Plan, inside, make_plan
from sharpose.errors import InputError
from sharpose.runtime.options import RunOptions

ALL = Shard()
JSON = ("--json", "out/{source}.jsonl")
BY_FOLDER = (("--json", "out/{folder}/{source}.jsonl"),)


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
    make.chdir = monkeypatch.chdir  # type: ignore[attr-defined]
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
    with pytest.raises(InputError, match=r"^v/Walk.mp4 and v/walk.mp4: the names of these videos, .* in case alone"):
        plan("v")
    touch("V/run.mp4", "w/run.mp4", "W/jump.mp4")
    assert len(plan("V", "w", "W", to=BY_FOLDER).videos) == 3
    monkeypatch.setattr(planning, "_ignores_case", lambda folder: folder == Path("out/w"))
    touch("W/run.mp4")
    with pytest.raises(InputError, match=r"^W/run.mp4 and w/run.mp4: .* in case alone"):
        plan("V", "w", "W", to=BY_FOLDER)


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
        (["q"], (JSON,), "^q: expected a video, a folder or glob of videos, .*, but the folder holds 1 subfolder"),
        (
            ["q/none"],
            (JSON,),
            "^q/none: expected .*, or @FILE, a list of those, but the folder holds no file$",
        ),
        (["q/*.mp4"], (JSON,), "^q/.*.mp4: expected a video, .*, but the glob matches no file$"),
        (["@folders.txt"], (JSON,), "^folders.txt, line 1: q/none: expected a video, or a folder .*, but the folder"),
        (["@v/1.mp4"], (JSON,), "^@v/1.mp4: expected a list of videos, .*, found a video; leave out the @$"),
        (["@binary"], (JSON,), "^@binary: expected a list of videos, a line each, found: no text$"),
        (
            ["v"],
            (("--json", "list.txt/a/{source}"),),
            "^output list.txt/a/1: expected a folder, found the file list.txt; give",
        ),
        (
            ["v"],
            (("--json", "/proc/none/{source}"),),
            "^--json /proc/none/1: /proc: expected a folder that results",
        ),
        (["v"], (("--json", "{folder}-{source}"),), "expected {folder} as a folder of its own in the path, such as"),
        (["v"], (("--json", "{source}/{folder}"),), "expected {folder} as a folder of its own in the path, such as"),
        (["v"], (("--json", "{folder}/all.jsonl"),), "2 sources can't share one output; put {source} into its name"),
        (["p/0.png"], (JSON,), "^p/0.png: expected a video, .* found a picture"),
        (["@none.txt"], (JSON,), "^@none.txt: expected a list of videos, a line each, found: No such file"),
        (["@list.txt"], (JSON,), "^list.txt, line 2: rtsp://x: expected a video"),
        (["@empty.txt"], (JSON,), "^@empty.txt: expected a video, .* found a list without one"),
    ],
)
def test_what_is_refused_before_any_work(
    plan: Callable[..., Plan], sources: list[str], to: tuple[tuple[str, str], ...], message: str
) -> None:
    touch("v/1.mp4", "v/2.mp4", "p/0.png")
    Path("q/none").mkdir(parents=True)
    Path("folders.txt").write_text("q/none\n")
    Path("binary").write_bytes(b"\xff\xfe\x00")
    Path("list.txt").write_text("v/1.mp4\nrtsp://x\n")
    Path("empty.txt").write_text("# nothing\n")
    with pytest.raises((InputError, click.UsageError), match=message.replace("{", r"\{")):
        plan(*sources, to=to)
    found = sorted(path.name for path in Path().iterdir())
    assert found == ["binary", "empty.txt", "folders.txt", "list.txt", "p", "q", "v"]


def test_boxes_are_not_shared(plan: Callable[..., Plan]) -> None:
    touch("v/1.mp4", "v/2.mp4")
    with pytest.raises(click.UsageError, match=r"^--boxes b.json: 2 videos can't share one file of boxes"):
        plan("v", boxes="b.json")
    assert [video.boxes for video in plan("v", boxes="{source}.json").videos] == ["1.json", "2.json"]


def test_a_video_that_is_called_as_a_partial_result_is_refused_alone_too(plan: Callable[..., Plan]) -> None:
    touch("e/x.partial.mp4")
    with pytest.raises(InputError, match=r"^out/x.partial.jsonl: .*; rename the video$"):
        plan("e")
    with pytest.raises(InputError, match=r"^out/x.partial: .*; rename the video$"):
        plan("e", to=(("--frames", "out/{source}"),))


def test_videos_of_one_name_are_told_apart_by_their_folders(plan: Callable[..., Plan], tmp_path: Path) -> None:
    touch("cams/a/walk.mp4", "cams/a/{source}/walk.mp4", "cams/b/walk.mp4", "walk.mp4", "cams/a/run.mp4")
    to = (*BY_FOLDER, ("--frames", "{folder}/of {source}"))
    made = plan("cams/**/*.mp4", "walk.mp4", to=to, boxes="boxes/{folder}/{source}.json")
    assert {video.path: [output.target for output in video.outputs] for video in made.videos} == {
        "cams/a/run.mp4": ["out/cams/a/run.jsonl", "cams/a/of run"],
        "cams/a/walk.mp4": ["out/cams/a/walk.jsonl", "cams/a/of walk"],
        "cams/a/{source}/walk.mp4": ["out/cams/a/{source}/walk.jsonl", "cams/a/{source}/of walk"],
        "cams/b/walk.mp4": ["out/cams/b/walk.jsonl", "cams/b/of walk"],
        "walk.mp4": ["out/./walk.jsonl", "./of walk"],
    }
    assert {video.path: video.boxes for video in made.videos}["cams/b/walk.mp4"] == "boxes/cams/b/walk.json"
    assert {video.name for video in made.videos} == {"run", "walk"}
    shards = [plan("cams/**/*.mp4", "walk.mp4", to=to, shard=Shard(index, 2)) for index in range(2)]
    assert sorted(path for shard in shards for path in paths(shard)) == sorted(paths(made))
    Path("list.txt").write_text("../below/../cams/./a/walk.mp4\n")
    Path("below").mkdir()
    plan.chdir("below")  # type: ignore[attr-defined]
    (video,) = plan("@../list.txt", to=BY_FOLDER).videos
    assert video.outputs[0].target == "out/cams/a/walk.jsonl"
    (video,) = plan(str(tmp_path / "cams" / "b"), to=BY_FOLDER).videos
    assert video.outputs[0].target == f"out{tmp_path}/cams/b/walk.jsonl"


@pytest.mark.parametrize(
    ("sources", "to", "boxes", "message"),
    [
        (
            "ab",
            (JSON,),
            None,
            r"^a/walk.mp4 and b/walk.mp4: both .*; put {folder}/ before it in --json, rename",
        ),
        (
            "ab",
            BY_FOLDER,
            "{source}.json",
            r"^a/walk.mp4 and b/walk.mp4: .*; put {folder}/ before it in --boxes, ",
        ),
        ("ab", (*BY_FOLDER, ("--csv", "{source}.csv")), None, r"; put {folder}/ before it in --csv, rename one"),
        (
            "abc",
            BY_FOLDER,
            None,
            r"^c/run.mkv and c/run.mp4: both are called run, .* results; rename one, or archive",
        ),
    ],
)
def test_collisions_with_folders_are_refused_whatever_the_shard(
    plan: Callable[..., Plan], sources: str, to: tuple[tuple[str, str], ...], boxes: str | None, message: str
) -> None:
    touch("a/walk.mp4", "b/walk.mp4", "c/run.mp4", "c/run.mkv")
    for index in range(2):
        with pytest.raises(InputError, match=message.replace("{", r"\{")):
            plan(*sources, to=to, boxes=boxes, shard=Shard(index, 2))


def test_a_result_does_not_lie_in_another(plan: Callable[..., Plan]) -> None:
    touch("a/walk.mp4", "a/walk/run.mp4")
    with pytest.raises(InputError, match=r"^out/a/walk/run: this result would lie in another one, out/a/walk; rename"):
        plan("a/**/*.mp4", to=(("--openpose", "out/{folder}/{source}"),))
    assert len(plan("a/**/*.mp4", to=BY_FOLDER).videos) == 2


def test_where_nothing_is_missing_nothing_needs_to_be_writable(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    touch("v/1.mp4", "out/1.jsonl")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", read_only)
    assert [video.missing for video in plan("v").videos] == [()]
    touch("v/2.mp4")
    with pytest.raises(InputError, match=r"^--json out/2.jsonl: out: expected .*, but: Read-only file system$"):
        plan("v")


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ("e/x.mp4", r"^output e/x.mp4 would overwrite the source; give another name$"),
        ("./list.txt", r"^--report list.txt would overwrite the list of videos; give another name$"),
        ("out/y.jsonl", r"^--report out/y.jsonl would overwrite out/y.jsonl, a result of --json; give another name$"),
        ("out/y.partial.jsonl", r"^--report out/y.partial.jsonl would overwrite out/y.jsonl, a result of --json"),
        ("frames/x/report.json", r"would overwrite frames/x, a result of --frames"),
        ("b/x.json", r"^output b/x.json would overwrite the input b/x.json"),
        ("link-to-list", r"^--report link-to-list would overwrite the list of videos; give another name$"),
        ("link-to-result", r"^--report link-to-result would overwrite out/y.jsonl, a result of --json; give another"),
    ],
)
def test_a_report_replaces_nothing_that_is_read_or_another_result(
    plan: Callable[..., Plan], report: str, message: str
) -> None:
    touch("e/x.mp4", "e/y.mp4", "b/x.json", "b/y.json")
    Path("list.txt").write_text("e/x.mp4\n")
    touch("out/y.jsonl")
    Path("link-to-list").hardlink_to("list.txt")
    Path("link-to-result").hardlink_to("out/y.jsonl")
    to = (JSON, ("--frames", "frames/{source}"))
    with pytest.raises(InputError, match=message):
        plan("e", "@list.txt", to=to, boxes="b/{source}.json", report=report)
    touch("report.json")
    assert len(plan("e", "@list.txt", to=to, boxes="b/{source}.json", report="report.json").videos) == 2


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (PurePosixPath("/data/day 1"), "data/day 1"),
        (PurePosixPath("../videos"), "videos"),
        (PurePosixPath("//server/videos"), "server/videos"),
        (PurePosixPath("."), "."),
        (PureWindowsPath(r"C:\data\day 1"), "data/day 1"),
        (PureWindowsPath(r"\\server\share\videos"), "videos"),
        (PureWindowsPath("D:/"), "."),
        (PureWindowsPath(r"..\videos"), "videos"),
    ],
)
def test_a_folders_name_leads_out_of_no_other_folder(folder: PurePath, name: str) -> None:
    assert inside(folder) == name

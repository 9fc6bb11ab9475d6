"""A folder that appears whole or not at all, whatever happens while it is written."""

import signal
import subprocess
import sys

import pytest

from sharpose.cli import Terminated
from sharpose.errors import ExportError, ParityError
from sharpose.export.bundle import atomic_folder, check_output


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def write(output, text="new", overwrite=False):
    with atomic_folder(output, overwrite=overwrite) as folder:
        (folder / "bundle.json").write_text(text)


def test_it_appears_when_the_block_ends(tmp_path):
    output = tmp_path / "a" / "b" / "bundle"
    with atomic_folder(output, overwrite=False) as folder:
        (folder / "bundle.json").write_text("new")
        assert not output.exists()
        assert folder.parent == output.parent  # so that the last step is a rename
    assert (output / "bundle.json").read_text() == "new"
    assert names(output.parent) == ["bundle"]
    assert output.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ParityError, ExportError, ValueError, KeyboardInterrupt, Terminated])
def test_an_error_inside_leaves_nothing(tmp_path, error):
    def fail():
        with atomic_folder(tmp_path / "bundle", overwrite=False) as folder:
            (folder / "weights.bin").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_an_error_inside_keeps_what_was_there(tmp_path):
    write(tmp_path / "bundle", "old")

    def fail():
        with atomic_folder(tmp_path / "bundle", overwrite=True):
            raise ParityError

    with pytest.raises(ParityError):
        fail()
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


def test_an_existing_output_is_refused(tmp_path):
    write(tmp_path / "bundle", "old")
    with pytest.raises(ExportError, match="already exists; give another folder or --overwrite"):
        write(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "old"


def test_overwrite_replaces_all_of_a_bundle(tmp_path):
    write(tmp_path / "bundle", "old")
    (tmp_path / "bundle" / "coarse.fp16.onnx").write_text("old")
    write(tmp_path / "bundle", overwrite=True)
    assert names(tmp_path / "bundle") == ["bundle.json"]
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "new"
    assert names(tmp_path) == ["bundle"]


def test_overwrite_takes_an_empty_folder_and_an_absent_one(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        write(tmp_path / name, overwrite=True)
        assert (tmp_path / name / "bundle.json").read_text() == "new"


def test_overwrite_replaces_nothing_but_bundles(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("dear")
    (tmp_path / "file").write_text("dear")
    write(tmp_path / "bundle")
    (tmp_path / "link").symlink_to("bundle")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("photos", "file", "link", "dangling"):
        with pytest.raises(ExportError, match="is not a bundle, so --overwrite won't replace it"):
            write(tmp_path / name, overwrite=True)
        with pytest.raises(ExportError, match="already exists"):
            check_output(tmp_path / name, overwrite=False)
    assert (tmp_path / "photos" / "a.jpg").read_text() == (tmp_path / "file").read_text() == "dear"


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="can't be written"):
        write(tmp_path / "file" / "bundle")


def test_the_old_bundle_comes_back_where_the_new_one_cant_take_its_place(tmp_path):
    write(tmp_path / "bundle", "old")

    def lose_the_new_one():
        with atomic_folder(tmp_path / "bundle", overwrite=True) as folder:
            folder.rename(tmp_path / "elsewhere")

    with pytest.raises(ExportError, match="can't be written"):
        lose_the_new_one()
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "old"


@pytest.mark.parametrize(("sent", "leaves"), [(signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGINT, False)])
def test_a_killed_process_leaves_no_folder_of_that_name(tmp_path, sent, leaves):
    script = (
        "import sys, time, pathlib, signal, sharpose.cli\n"
        "from sharpose.export.bundle import atomic_folder\n"
        "signal.signal(signal.SIGTERM, sharpose.cli._terminate)\n"
        "with atomic_folder(pathlib.Path(sys.argv[1]), overwrite=False) as folder:\n"
        "    (folder / 'weights.bin').write_bytes(b'half')\n"
        "    (folder / 'bundle.json').write_text('{}')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "bundle")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(sent)
    assert process.wait(timeout=30) != 0
    process.stdout.close()
    assert not (tmp_path / "bundle").exists()
    assert bool(names(tmp_path)) is leaves  # nothing can clean up after SIGKILL
    write(tmp_path / "bundle")  # and what it left is in nobody's way

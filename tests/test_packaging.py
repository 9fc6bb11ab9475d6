"""Wheel and sdist: all folders under one import name, a small installation that runs, what an index shows, extras."""

from __future__ import annotations

import configparser
import email
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib import metadata
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LEAN_LIMIT_MB = 500
SHIPPED_LIMIT_MB = 25


SOURCE = "https://example.com/owner/name/blob/v0"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist and the wheel built from that; made of a copy, because a build writes into its source."""
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source")
    for name in ("sharpose", "export", "engines", "runtime", "serving", "training", "archive", "configs"):
        _copy(ROOT / name, source / name)
    texts = ("README.md", "LICENSE", "constraints.txt", "constraints-grpc.txt")
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", *texts):
        (source / name).write_bytes((ROOT / name).read_bytes())
    _build("sdist", source, out)
    (sdist,) = out.glob("*.tar.gz")
    shutil.unpack_archive(sdist, source / "unpacked")
    (unpacked,) = (source / "unpacked").iterdir()
    _build("wheel", unpacked, out)
    return out


def _build(kind: str, source: Path, out: Path) -> None:
    """As `python -m build --no-isolation` does, without the processes in which it asks for requirements."""
    program = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    environment = {**os.environ, "SHARPOSE_SOURCE_URL": SOURCE}
    done = subprocess.run(
        [sys.executable, "-c", program, str(out)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=source,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


def _copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


def test_the_wheel_holds_every_module_under_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.startswith("sharpose-")}
    expected = {"sharpose/py.typed"}
    shipped = list((ROOT / "sharpose" / "weights").glob("*/*"))
    assert len(shipped) == 7
    for folder in ("sharpose", "export", "engines", "runtime", "serving", "training", "archive", "configs"):
        prefix = "" if folder == "sharpose" else "sharpose/"
        files = [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.yaml")]
        files += [*(ROOT / folder).rglob("*.html")]
        files += [path for path in shipped if path.relative_to(ROOT).parts[0] == folder]
        expected |= {prefix + path.relative_to(ROOT).as_posix() for path in files}
    assert held == expected
    assert wheel.stat().st_size < SHIPPED_LIMIT_MB * 1e6


def test_an_index_shows_the_readme_with_links_that_work_there(distributions: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        shown = email.message_from_bytes(archive.read(name))
    assert shown["Description-Content-Type"] == "text/markdown"
    assert shown["License-Expression"] == "Apache-2.0"
    assert "Source, https://example.com/owner/name" in shown.get_all("Project-URL", [])
    text = str(shown.get_payload())
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 10
    assert all(link.startswith("https://") for link in links)
    assert f"]({SOURCE}/docs/streams.md)" in text
    assert f"]({SOURCE}/README.md#tensorrt)" in text
    assert "](https://example.com/owner/name/raw/v0/docs/images/coarse_and_refined.jpg)" in text
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"constraints.txt", "runtime/cli.py", "runtime/serve/page.html", "configs/detectors/detectors.yaml"} <= names


def test_without_an_address_links_into_the_repository_are_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setuptools.setup", lambda **settings: None)
    text = "![a picture](a/b.jpg) [page](docs/a.md) [part](#part) [home](https://example.com/x)"
    describe = runpy.run_path(str(ROOT / "setup.py"))["describe"]
    assert describe(text, None) == " page part [home](https://example.com/x)"


def test_docker_gets_all_that_an_installation_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    sent = {line[1:] for line in lines if line.startswith("!")}
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    folders = set(re.findall(r"= (\w+)$", settings["options"]["package_dir"], re.MULTILINE))
    assert sent == folders | {
        "LICENSE", "MANIFEST.in", "README.md", "constraints.txt", "pyproject.toml", "setup.cfg", "setup.py"
    }  # fmt: skip
    assert all((ROOT / name).exists() for name in sent)


@pytest.mark.parametrize("file", sorted((ROOT / "docker").glob("Dockerfile*")), ids=lambda file: file.name)
def test_images_are_made_of_what_docker_gets(file: Path) -> None:
    """Of the checkout, and of stages of their own; `--build-context NAME=DIR` takes the place of one."""
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    text = file.read_text().replace("\\\n", " ")
    stages = re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE)
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        words = line.split()
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages
        else:
            (source,) = words[:-1]
            assert source == "." or (source.split("/")[0] in sent and (ROOT / source).exists())
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE))
    assert not any((ROOT / value).exists() for value in arguments.values())  # others that somebody gives aren't sent
    for section in (ROOT / "docs" / "docker.md").read_text().split("\n## "):
        if f"docker/{file.name} " in section:
            assert set(re.findall(r"--build-arg (\w+)=", section)) <= set(arguments)
            assert set(re.findall(r"--build-context (\w+)=", section)) <= set(stages)


def _required(distribution: Distribution, extra: str) -> set[str]:
    """Names of the installed packages that one needs with an extra, directly or not; each in a version that fits."""
    found: set[str] = set()
    waiting = [(distribution, extra)]
    while waiting:
        needing, its_extra = waiting.pop()
        for text in needing.requires or []:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": its_extra}):
                continue
            needed = metadata.distribution(requirement.name)
            assert needed.version in requirement.specifier, (needing.name, text, needed.version)
            if needed.name not in found:
                found.add(needed.name)
                waiting += [(needed, one) for one in requirement.extras or [""]]
    return found


def _link(distribution: Distribution, packages: Path) -> int:
    """Put links to an installed package into a folder of packages; its bytes."""
    files = [file for file in distribution.files or [] if ".." not in file.parts and "__pycache__" not in file.parts]
    for name in {file.parts[0] for file in files}:
        if not (packages / name).exists():
            (packages / name).symlink_to(Path(str(distribution.locate_file(name))))
    return sum(Path(str(file.locate())).stat().st_size for file in files)


@pytest.mark.parametrize("source", ["links", pytest.param("index", marks=pytest.mark.soak)])
def test_a_clean_install_finds_poses(wheel: Path, tmp_path: Path, source: str) -> None:
    """The wheel with [cpu] in a new venv: no torch, under 500 MB.

    `links`: what it requires is taken from the environment of the tests, and only that; `index`: pip gets it.
    """
    folder = tmp_path / "venv"
    venv.create(folder)
    python = folder / "bin" / "python"
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--disable-pip-version-check"]
    pip += ["--no-compile", "-c", str(ROOT / "constraints.txt")]
    pip += [f"{wheel}[cpu]"] if source == "index" else ["--no-deps", "--no-index", str(wheel)]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(pip, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    if source == "links":
        (installed,) = metadata.distributions(name="sharpose", path=[str(packages)])
        required = _required(installed, "cpu")
        assert {"numpy", "onnxruntime"} <= required
        size += sum(_link(metadata.distribution(name), packages) for name in required)
    assert not (packages / "torch").exists()
    assert size / 1e6 < LEAN_LIMIT_MB
    out = tmp_path / "out.jsonl"
    run = [str(folder / "bin" / "sharpose-run"), "scene:people=2,frames=2,size=360x640", "--json", str(out)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1]
    assert all(len(person["keypoints"]) == 17 for line in lines for person in line["people"])
    demo = [str(python), str(ROOT / "examples" / "demo.py"), "--output", str(tmp_path / "sheet.jpg")]
    done = subprocess.run(demo, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.jpg").stat().st_size > 100_000


def test_only_the_extras_for_it_name_onnxruntime() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    naming = {
        extra
        for extra, packages in settings["options.extras_require"].items()
        if any(line.strip().startswith("onnxruntime") for line in packages.splitlines())
    }
    assert naming == {"cpu", "directml", "gpu", "gpu-cu12"}
    assert "onnxruntime" not in settings["options"]["install_requires"]


def test_extras_for_tensorrt_of_two_cudas_exclude_each_other() -> None:
    """They would write into one folder; the package called just `tensorrt` is such a second copy."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    bindings = {}
    for extra, packages in settings["options.extras_require"].items():
        lines = [line for line in packages.splitlines() if line.strip()]
        required = {Requirement(line).name: Requirement(line).specifier for line in lines}
        assert "tensorrt" not in required
        assert "tensorrt-rtx" not in required
        if extra.startswith("tensorrt"):
            bindings[extra] = required["cuda-bindings"]
    assert set(bindings) == {"tensorrt"} | {f"tensorrt{kind}-cu{cuda}" for kind in ("", "-rtx") for cuda in (12, 13)}
    versions = ("12.8.0", "12.9.0", "12.9.1", "12.9.10", "13.0.0", "13.5.0")
    taken = {extra: {version for version in versions if version in specifier} for extra, specifier in bindings.items()}
    assert taken["tensorrt"] == {"12.9.1", "12.9.10", "13.0.0", "13.5.0"}  # earlier ones hold the GIL in every call
    for kind in ("", "-rtx"):
        assert taken[f"tensorrt{kind}-cu12"] == {"12.9.1", "12.9.10"}
        assert taken[f"tensorrt{kind}-cu13"] == {"13.0.0", "13.5.0"}


def test_every_package_folder_is_listed() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    found = set()
    for folder in ("sharpose", "export", "engines", "runtime", "serving", "training", "archive", "configs"):
        for path in (ROOT / folder).rglob("__init__.py"):
            parts = path.parent.relative_to(ROOT).parts
            found.add(".".join(parts if folder == "sharpose" else ("sharpose", *parts)))
    assert listed == found

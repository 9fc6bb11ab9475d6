"""Try mutated inputs of some kinds: `python tests/fuzz/try_inputs.py KIND... --inputs DIR --seed 0 --count 100`.

Every input gets a fork of this process, which has imported all that is needed and started no engine. Prints a line for
each input that breaks the rule of `fuzzing.broken_rule`, or whose results are wrong without a word, and ends with 1 if
there was one. `--keep DIR` keeps those.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
from fuzzing import Outcome, broken_rule, child, mutated_bytes, mutated_graph, mutated_json

from sharpose.cli import main

Attempt = Callable[[Path, np.random.Generator], str | None]
"""Makes a mutated input in an empty folder, tries it, and says what is wrong."""


def make_inputs(folder: Path, bundle: Path | None = None) -> None:
    """One sound input of every kind: the nano bundle, its checkpoint, pictures, labels, boxes, a video, a recipe.

    Args:
        folder: Where they go.
        bundle: The bundle, to copy; it is exported if None.
    """
    import av
    import cv2
    from nano_model import NANO
    from reference_model import reference_crops

    from sharpose.export.bundle import ExportOptions, export_bundle
    from sharpose.export.pictures import ParityPictures
    from sharpose.model import random_model, save_checkpoint

    folder.mkdir(parents=True)
    loaded = random_model(NANO, seed=0)
    save_checkpoint(folder / "nano.pth", loaded.model)
    if bundle is None:
        pictures = ParityPictures(reference_crops(4, NANO.crop_size), "blocks of colour")
        export_bundle(loaded, folder / "bundle", pictures, ExportOptions(gate_chosen_by="the tests"))
    else:
        shutil.copytree(bundle, folder / "bundle")
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    entries, boxes = [], []
    for number in range(3):
        image = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "pictures" / f"{number}.png"), image)
        cv2.imwrite(str(folder / f"{number}.jpg"), image)
        keypoints = [float(v) for j in range(17) for v in (20 + 3 * j, 15 + 5 * j, 2)]
        entries.append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [10.0, 10.0, 90.0, 100.0],
                "area": 4000.0,
                "num_keypoints": 17,
                "keypoints": keypoints,
            }
        )
        boxes.append({"image_id": number, "category_id": 1, "bbox": [10.0, 10.0, 90.0, 100.0], "score": 0.9})
    images = [{"id": n, "file_name": f"{n}.png", "width": 160, "height": 120} for n in range(3)]
    labels = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "person"}]}
    (folder / "labels.json").write_text(json.dumps(labels))
    (folder / "boxes.json").write_text(json.dumps(boxes))
    for name, codec in (("video.mp4", "libx264"), ("video.mkv", "mpeg4")):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            for index in range(12):
                moved = np.asarray(np.roll(image, 4 * index, axis=1), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, "bgr24")))
            container.mux(stream.encode())


def run_pictures(*arguments: object) -> Outcome:
    from sharpose.runtime.cli import command

    return child(lambda: main(command, [*map(str, arguments), "--threads", "1", "--quiet"]))


def lines_of(file: Path) -> list[Any]:
    """What the lines of a file of JSON say; numbers that are not finite are no JSON."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in file.read_text().splitlines()] if file.exists() else []


def sound_lines(*arguments: object) -> list[Any]:
    """What a run on sound input writes."""
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary) / "o.jsonl"
        outcome = run_pictures(*arguments, "--json", results)
        assert outcome.code == 0, outcome.err
        return lines_of(results)


def checked(outcome: Outcome, results: Path, expected: int, sound: list[Any] | None = None) -> str | None:
    """The rule; and that a run that is done wrote a line for every frame, and the `sound` lines, or warned."""
    problem = broken_rule(outcome)
    if problem is not None:
        return problem
    try:
        lines = lines_of(results)
    except ValueError as error:
        return f"exit code {outcome.code} with results that are no JSON: {error}"
    if outcome.code == 0 and len(lines) != expected and not outcome.err:
        return f"exit code 0 with {len(lines)} of {expected} lines"
    if outcome.code == 0 and sound is not None and lines != sound and not outcome.err:
        return "exit code 0 with other results than of the sound input, without a word"
    if outcome.code == 2 and results.exists():
        return "exit code 2, and results under the name of whole ones"
    return None


def bundle_json(inputs: Path) -> Attempt:
    document = json.loads((inputs / "bundle" / "bundle.json").read_text())
    always = ["--full-frame", "--refine", "always"]  # what is left in bundle.json decides nothing then
    sound = sound_lines(inputs / "pictures", "--bundle", inputs / "bundle", *always)

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        shutil.copytree(inputs / "bundle", folder / "bundle")
        (folder / "bundle" / "bundle.json").write_text(mutated_json(document, rng))
        arguments = [inputs / "pictures", "--bundle", folder / "bundle", "--json", folder / "o.jsonl"]
        if rng.random() < 0.3:
            return checked(run_pictures(*arguments, "--full-frame"), folder / "o.jsonl", 3)
        return checked(run_pictures(*arguments, *always), folder / "o.jsonl", 3, sound)

    return attempt


def bundle_files(inputs: Path) -> Attempt:
    """Graphs and weights whose hashes fit, as somebody would make them who changes a bundle."""
    import hashlib

    import onnx

    graphs = {
        name: onnx.load(str(inputs / "bundle" / name), load_external_data=False)
        for name in ("coarse.onnx", "fine.onnx")
    }

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        bundle = shutil.copytree(inputs / "bundle", folder / "bundle")
        name = str(rng.choice(["coarse.onnx", "fine.onnx", "weights.bin"]))
        old = (bundle / name).read_bytes()
        new = mutated_graph(graphs[name], rng) if name in graphs and rng.random() < 0.6 else mutated_bytes(old, rng)
        (bundle / name).write_bytes(new)
        text = (bundle / "bundle.json").read_text()
        text = text.replace(hashlib.sha256(old).hexdigest(), hashlib.sha256(new).hexdigest())
        (bundle / "bundle.json").write_text(text)
        arguments = [inputs / "pictures", "--bundle", bundle, "--full-frame", "--json", folder / "o.jsonl"]
        return checked(run_pictures(*arguments), folder / "o.jsonl", 3)

    return attempt


def boxes(inputs: Path) -> Attempt:
    document = json.loads((inputs / "boxes.json").read_text())

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        text = mutated_json(document, rng)
        (folder / "boxes.json").write_text(text)
        arguments = ["--bundle", inputs / "bundle", "--boxes", folder / "boxes.json", "--json", folder / "o.jsonl"]
        outcome = run_pictures(inputs / "pictures", *arguments)
        problem = checked(outcome, folder / "o.jsonl", 3)
        if problem is None and outcome.code == 0:
            used = [person["bbox"] for line in lines_of(folder / "o.jsonl") for person in line["people"]]
            wanted = [
                entry["bbox"]
                for entry in json.loads(text)
                if str(entry["image_id"]) in ("0", "1", "2")
                and entry.get("category_id", 1) == 1
                and not entry.get("iscrowd")
            ]
            if len(used) != len(wanted) or not np.allclose(sorted(used), sorted(wanted), rtol=1e-4, atol=0.01):
                return f"people in {used}, but the file has {wanted}"
        return problem

    return attempt


def labels(inputs: Path) -> Attempt:
    document = json.loads((inputs / "labels.json").read_text())
    from sharpose.training.eval_cli import command

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        text = mutated_json(document, rng)
        (folder / "labels.json").write_text(text)
        arguments = ["--annotations", folder / "labels.json", "--images", inputs / "pictures", "--bundle"]
        arguments += [inputs / "bundle", "--no-plots", "--output", folder / "report"]
        outcome = child(lambda: main(command, list(map(str, arguments))))
        problem = broken_rule(outcome)
        if problem is None and outcome.code == 0:
            metrics = json.loads((folder / "report" / "metrics.json").read_text())
            coco, subject = metrics["modes"]["always"]["coco"], metrics["subject"]
            if not 0 <= coco["ap"] < 0.5:  # random weights find nobody
                return f"AP {coco['ap']} for random weights"
            counted = subject["people"] + sum(subject["left_out"].values())
            if counted != len(json.loads(text)["annotations"]):
                return f"{counted} people counted of {len(json.loads(text)['annotations'])}"
        return problem

    return attempt


def checkpoints(inputs: Path) -> Attempt:
    import torch
    from checkpoint_files import mutated_checkpoint

    from sharpose.model import load_model

    file = inputs / "nano.pth"
    sound, weights = file.read_bytes(), load_model(file).model.state_dict()

    @click.command()
    @click.argument("path")
    @click.option("--same", is_flag=True)
    def load(path: str, same: bool) -> None:
        read = load_model(path).model.state_dict()
        assert all(value.isfinite().all() for value in read.values())
        if same and not all(torch.equal(read[key], weights[key]) for key in weights):
            raise AssertionError("other weights, without a word")

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        path, options = folder / "a.pth", ["--same"]
        if rng.random() < 0.4:
            path.write_bytes(mutated_bytes(sound, rng))
        else:
            path, same = mutated_checkpoint(file, path, rng)
            options = ["--same"] if same else []
        return broken_rule(child(lambda: main(load, [str(path), *options])))

    return attempt


def recipes(inputs: Path) -> Attempt:
    import yaml

    from sharpose.training.recipe import list_recipes, load_recipe

    names = list_recipes()

    @click.command()
    @click.argument("path")
    def load(path: str) -> None:
        load_recipe(path)

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        source = Path(load_recipe.__code__.co_filename).parents[1] / "configs" / "recipes"
        content = (source / f"{names[int(rng.integers(len(names)))]}.yaml").read_bytes()
        if rng.random() < 0.5:
            content = mutated_bytes(content, rng)
        else:
            content = mutated_json(yaml.safe_load(content), rng).encode()  # JSON is YAML
        (folder / "recipe.yaml").write_bytes(content)
        return broken_rule(child(lambda: main(load, [str(folder / "recipe.yaml")])))

    return attempt


def videos(inputs: Path) -> Attempt:
    names = ("video.mp4", "video.mkv")
    files = {name: (inputs / name).read_bytes() for name in names}
    extras: list[list[object]] = [[], ["--start", 0.1], ["--stride", 2], ["--duration", 0.2]]
    arguments = ["--bundle", inputs / "bundle", "--full-frame"]

    @functools.cache
    def expected(name: str, choice: int) -> int:
        return len(sound_lines(inputs / name, *arguments, *extras[choice]))

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        name = str(rng.choice(names))
        (folder / name).write_bytes(mutated_bytes(files[name], rng))
        choice = int(rng.integers(len(extras)))
        outcome = run_pictures(folder / name, *arguments, "--json", folder / "o.jsonl", *extras[choice])
        return checked(outcome, folder / "o.jsonl", expected(name, choice))

    return attempt


def pictures(inputs: Path) -> Attempt:
    names = ("0.jpg", "pictures/1.png")
    files = {name: (inputs / name).read_bytes() for name in names}
    arguments = ["--bundle", inputs / "bundle", "--full-frame"]
    sound = {name: sound_lines(inputs / name, *arguments) for name in names}

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        name = str(rng.choice(names))
        file = folder / Path(name).name
        file.write_bytes(mutated_bytes(files[name], rng))
        outcome = run_pictures(file, *arguments, "--json", folder / "o.jsonl")
        same = sound[name] if file.suffix == ".png" else None  # JPEG has no checksums
        return checked(outcome, folder / "o.jsonl", 1, same)

    return attempt


_TOKEN = b"0123456789abcdef"
_SOUND_REQUESTS = (
    b"GET /state.json HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + _TOKEN + b"\r\n\r\n",
    b"GET /snapshot.jpg?stream=a&token=" + _TOKEN + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"HEAD /metrics HTTP/1.0\r\nAccept: application/openmetrics-text\r\nContent-Length: 3\r\n\r\nabc",
)
_HOSTILE_HEADERS = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"X-Long: " + b"a" * 200_000 + b"\r\n",
    b"X: y\r\n" * 5000,
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: -1\r\n",
    b"Cookie: " + b"token=" * 3000 + b"\r\n",
    b"Host: evil.example\r\nHost: 127.0.0.1\r\n",
    b"Range: bytes=0-,5-2\r\nExpect: 100-continue\r\n",
    b"Authorization: Bearer \xff\xfe\x00\r\n",
    b" folded: yes\r\n\tmore\r\n",
)


def mutated_request(rng: np.random.Generator) -> bytes:
    """A request with hostile bytes or headers, one after another, or a part of one."""
    request = _SOUND_REQUESTS[int(rng.integers(len(_SOUND_REQUESTS)))]
    what = int(rng.integers(6))
    if what <= 1:
        return mutated_bytes(request, rng)
    if what == 2:
        first, rest = request.split(b"\r\n", 1)
        return first + b"\r\n" + _HOSTILE_HEADERS[int(rng.integers(len(_HOSTILE_HEADERS)))] + rest
    if what == 3:  # pipelined
        return b"".join(mutated_bytes(request, rng) if rng.random() < 0.3 else request for _ in range(20))
    if what == 4:
        return request[: int(rng.integers(len(request)))]
    path = rng.choice(
        [b"/" + b"a" * 70_000, b"//", b"/../../etc/passwd", b"/%00", b"/?" + b"a=&" * 9999, b"*", b"http://x/"]
    )
    return request.replace(request.split(b" ")[1], bytes(path), 1)


def requests(inputs: Path) -> Attempt:
    from sharpose.runtime.serve import ServeServer

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        hostile = mutated_request(rng)
        (folder / "request").write_bytes(hostile)
        ends, piecemeal = rng.random() < 0.7, rng.random() < 0.2

        def serve() -> None:
            said: list[str] = []
            server = ServeServer("127.0.0.1:0", _TOKEN.decode(), say=said.append, warn=said.append)
            place = (server.address.host, server.address.port)
            step = 7 if piecemeal and len(hostile) < 500 else max(1, len(hostile))
            with socket.create_connection(place, timeout=3) as client:
                with contextlib.suppress(OSError):  # it may hang up on us
                    for at in range(0, len(hostile), step):
                        client.sendall(hostile[at : at + step])
                    if ends:
                        client.shutdown(socket.SHUT_WR)
                        while client.recv(65536):
                            pass
                with socket.create_connection(place, timeout=3) as other:  # and it still answers
                    other.sendall(b"GET /healthz?token=" + _TOKEN + b" HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                    answer = other.recv(4096)
                    assert re.match(rb"HTTP/1\.[01] (200|429) ", answer), answer
            server.close()
            assert not any("Traceback" in line for line in said), said

        return broken_rule(child(serve), codes=(0,))

    return attempt


KINDS = {
    make.__name__: make
    for make in (requests, bundle_json, bundle_files, boxes, videos, pictures, labels, recipes, checkpoints)
}


@click.command()
@click.argument("kinds", nargs=-1, required=True, type=click.Choice(["inputs", *KINDS]))
@click.option("--inputs", type=click.Path(path_type=Path), required=True, help="Folder of sound inputs.")
@click.option("--seed", type=int, default=0, show_default=True, help="The first input's number.")
@click.option("--count", type=int, default=100, show_default=True, help="How many inputs of each kind to try.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the inputs that break the rule.")
def command(kinds: tuple[str, ...], inputs: Path, seed: int, count: int, keep: Path | None) -> int:
    """Try mutated inputs of KINDS; `inputs` makes the sound ones."""
    if "inputs" in kinds:
        make_inputs(inputs)
        return 0
    broken = [try_kind(kind, inputs, range(seed, seed + count), keep) for kind in kinds]
    return 1 if any(broken) else 0


def try_kind(kind: str, inputs: Path, numbers: range, keep: Path | None) -> int:
    """Try the inputs of these numbers; how many break the rule."""
    if kind not in ("recipes", "checkpoints"):  # once, and not in every child
        for module in (
            "runtime.assemble",
            "runtime.run",
            "engines.onnxrt",
            "engines.tensorrt.load",
            "runtime.serve.metrics",
        ):
            importlib.import_module(f"sharpose.{module}")
        import cv2
        import onnxruntime  # noqa: F401

        cv2.setNumThreads(1)
    if kind == "labels":
        importlib.import_module("sharpose.training.evaluation.run")
        importlib.import_module("pycocotools.cocoeval")
    attempt = KINDS[kind](inputs)
    broken = 0
    for number in numbers:
        with tempfile.TemporaryDirectory() as temporary:
            problem = attempt(Path(temporary), np.random.default_rng([sorted(KINDS).index(kind), number]))
            if problem is not None:
                broken += 1
                print(f"{kind} {number}: {problem}", flush=True)
                if keep is not None:
                    shutil.copytree(temporary, keep / f"{kind}_{number}")
    print(f"{kind}: {len(numbers)} inputs, {broken} of them break the rule", flush=True)
    return broken


def start() -> NoReturn:
    main(command)


if __name__ == "__main__":
    start()

"""Try mutated inputs of one kind: `python tests/fuzz/try_inputs.py KIND --inputs DIR --seed 0 --count 100`.

Every input gets a fork of this process, which has imported all that is needed and started no engine. Prints a line for
each input that breaks the rule of `fuzzing.broken_rule`, and ends with 1 if there was one. `--keep DIR` keeps those.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
from fuzzing import Outcome, broken_rule, child, mutated_bytes, mutated_json

from sharpose.cli import main

Attempt = Callable[[Path, np.random.Generator], str | None]
"""Makes a mutated input in an empty folder, tries it, and says what is wrong."""


def make_inputs(folder: Path) -> None:
    """One sound input of every kind: a small bundle, its checkpoint, pictures, labels, boxes, a video, a recipe."""
    import av
    import cv2
    from reference_model import reference_crops

    from sharpose.config import ModelConfig
    from sharpose.export.bundle import ExportOptions, export_bundle
    from sharpose.export.pictures import ParityPictures
    from sharpose.model import random_model, save_checkpoint
    from sharpose.skeleton import COCO17

    folder.mkdir(parents=True)
    config = ModelConfig(
        name="nano",
        skeleton=COCO17,
        crop_size=(128, 96),
        width=24,
        depth=2,
        heads=12,
        alpha=0.5,
        quality_threshold=0.99,
    )
    loaded = random_model(config, seed=0)
    save_checkpoint(folder / "nano.pth", loaded.model)
    pictures = ParityPictures(reference_crops(4, config.crop_size), "blocks of colour")
    export_bundle(loaded, folder / "bundle", pictures, ExportOptions(gate_chosen_by="the tests", max_batch=4))
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


def lines_of(file: Path) -> int:
    """How many whole lines of JSON a file has; 0 where there is none."""
    return sum(1 for line in file.read_text().splitlines() if json.loads(line)) if file.exists() else 0


def checked(outcome: Outcome, results: Path, expected: int) -> str | None:
    """The rule, and that a run that says it is done wrote a line for every frame."""
    problem = broken_rule(outcome)
    if problem is None and outcome.code == 0 and lines_of(results) != expected:
        return f"exit code 0 with {lines_of(results)} of {expected} lines"
    if problem is None and outcome.code == 2 and results.exists():
        return "exit code 2, and results under the name of whole ones"
    return problem


def bundle_json(inputs: Path) -> Attempt:
    document = json.loads((inputs / "bundle" / "bundle.json").read_text())

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        shutil.copytree(inputs / "bundle", folder / "bundle")
        (folder / "bundle" / "bundle.json").write_text(mutated_json(document, rng))
        arguments = [inputs / "pictures", "--bundle", folder / "bundle", "--full-frame", "--json", folder / "o.jsonl"]
        return checked(run_pictures(*arguments), folder / "o.jsonl", 3)

    return attempt


def bundle_files(inputs: Path) -> Attempt:
    """Graphs and weights whose hashes fit, as somebody would make them who changes a bundle."""
    import hashlib

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        bundle = shutil.copytree(inputs / "bundle", folder / "bundle")
        name = str(rng.choice(["coarse.onnx", "fine.onnx", "weights.bin"]))
        old = (bundle / name).read_bytes()
        new = mutated_bytes(old, rng)
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
        (folder / "boxes.json").write_text(mutated_json(document, rng))
        arguments = ["--bundle", inputs / "bundle", "--boxes", folder / "boxes.json", "--json", folder / "o.jsonl"]
        return checked(run_pictures(inputs / "pictures", *arguments), folder / "o.jsonl", 3)

    return attempt


def labels(inputs: Path) -> Attempt:
    document = json.loads((inputs / "labels.json").read_text())
    from sharpose.training.eval_cli import command

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        (folder / "labels.json").write_text(mutated_json(document, rng))
        arguments = ["--annotations", folder / "labels.json", "--images", inputs / "pictures", "--bundle"]
        arguments += [inputs / "bundle", "--no-plots", "--output", folder / "report"]
        outcome = child(lambda: main(command, list(map(str, arguments))))
        problem = broken_rule(outcome)
        if problem is None and outcome.code == 0:
            coco = json.loads((folder / "report" / "metrics.json").read_text())["modes"]["always"]["coco"]
            if not 0 <= coco["ap"] < 0.5:  # random weights find nobody
                return f"AP {coco['ap']} for random weights"
        return problem

    return attempt


def checkpoints(inputs: Path) -> Attempt:
    from sharpose.model import load_model

    sound = (inputs / "nano.pth").read_bytes()

    @click.command()
    @click.argument("path")
    def load(path: str) -> None:
        load_model(path)

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        (folder / "a.pth").write_bytes(mutated_bytes(sound, rng))
        return broken_rule(child(lambda: main(load, [str(folder / "a.pth")])))

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
    files = {name: (inputs / name).read_bytes() for name in ("video.mp4", "video.mkv")}

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        name = str(rng.choice(list(files)))
        (folder / name).write_bytes(mutated_bytes(files[name], rng))
        extra: list[object] = [[], ["--start", 0.1], ["--stride", 2], ["--duration", 0.2]][int(rng.integers(4))]
        results = folder / "o.jsonl"
        outcome = run_pictures(folder / name, "--bundle", inputs / "bundle", "--full-frame", "--json", results, *extra)
        problem = broken_rule(outcome)
        if problem is None and outcome.code == 0 and not lines_of(results):
            return "exit code 0 without a frame"
        return problem

    return attempt


def pictures(inputs: Path) -> Attempt:
    files = {name: (inputs / name).read_bytes() for name in ("0.jpg", "pictures/1.png")}

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        name = str(rng.choice(list(files)))
        file = folder / Path(name).name
        file.write_bytes(mutated_bytes(files[name], rng))
        results = folder / "o.jsonl"
        outcome = run_pictures(file, "--bundle", inputs / "bundle", "--full-frame", "--json", results)
        return checked(outcome, results, 1)

    return attempt


def requests(inputs: Path) -> Attempt:
    from sharpose.runtime.serve import ServeServer

    sound = (
        b"GET /state.json HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n",
        b"GET /snapshot.jpg?stream=a&token=0123456789abcdef HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"HEAD /metrics HTTP/1.0\r\nAccept: application/openmetrics-text\r\nContent-Length: 3\r\n\r\nabc",
    )

    def attempt(folder: Path, rng: np.random.Generator) -> str | None:
        hostile = mutated_bytes(sound[int(rng.integers(len(sound)))], rng)

        def serve() -> None:
            said: list[str] = []
            server = ServeServer("127.0.0.1:0", "0123456789abcdef", say=said.append)
            place = (server.address.host, server.address.port)
            with socket.create_connection(place, timeout=3) as client:
                client.sendall(hostile)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
            with socket.create_connection(place, timeout=3) as client:  # and it still answers
                client.sendall(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                assert client.recv(12).startswith(b"HTTP/1.")
            server.close()

        return broken_rule(child(serve), codes=(0,))

    return attempt


KINDS = {
    make.__name__: make
    for make in (bundle_json, bundle_files, boxes, labels, checkpoints, recipes, videos, pictures, requests)
}


@click.command()
@click.argument("kind", type=click.Choice(["inputs", *KINDS]))
@click.option("--inputs", type=click.Path(path_type=Path), required=True, help="Folder of sound inputs.")
@click.option("--seed", type=int, default=0, show_default=True, help="The first input's number.")
@click.option("--count", type=int, default=100, show_default=True, help="How many inputs to try.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the inputs that break the rule.")
def command(kind: str, inputs: Path, seed: int, count: int, keep: Path | None) -> int:
    """Try mutated inputs of KIND; `inputs` makes the sound ones."""
    if kind == "inputs":
        make_inputs(inputs)
        return 0
    if kind in ("bundle_json", "bundle_files", "boxes", "videos", "pictures", "labels"):
        import cv2

        cv2.setNumThreads(1)
    attempt = KINDS[kind](inputs)
    broken = 0
    for number in range(seed, seed + count):
        with tempfile.TemporaryDirectory() as temporary:
            problem = attempt(Path(temporary), np.random.default_rng([sorted(KINDS).index(kind), number]))
            if problem is not None:
                broken += 1
                print(f"{kind} {number}: {problem}", flush=True)
                if keep is not None:
                    shutil.copytree(temporary, keep / f"{kind}_{number}")
    print(f"{kind}: {count} inputs, {broken} of them break the rule")
    return 1 if broken else 0


def start() -> NoReturn:
    main(command)


if __name__ == "__main__":
    start()

"""Write measured numbers into README.md and docs/performance.md: `python benchmarks/tables.py RESULTS…`.

RESULTS, one folder or several, have a folder for each run: `small` (all precisions), `baselines` (the same model, one
person, beside baselines), `tiny`, `base` (384 x 288 beside a dense model), `starts_tiny` and `starts_small` (cold
starts), and `scaling`. What stands between `<!-- numbers: NAME -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C while modules are imported
    from sharpose.__main__ import end_on_signals

    end_on_signals()

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
from measuring.page import cell, table
from measuring.targets import ON_CPU, judge
from report import Machine
from scaling import growth_mib

from sharpose.cli import interruptible
from sharpose.cli import main as run_command
from sharpose.errors import InputError, counted
from sharpose.files import read_json, replacing

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"(<!-- numbers: (\w+) -->\n\n)(.*?)(\n*<!-- end -->)", re.DOTALL)
_MODELS = {"tiny": "tiny 256×192", "small": "small 256×192"}

Report = Mapping[str, Any]


class Results:
    """The reports of some folders, by the names of their folders; of two with one name, the first folder's."""

    def __init__(self, *folders: Path) -> None:
        self._folders = folders

    def __getitem__(self, name: str) -> Report:
        """A run's report; raises `InputError` where it is missing."""
        file = "scaling.json" if name == "scaling" else "latency.json"
        paths = [folder / name / file for folder in self._folders]
        path = next((path for path in paths if path.exists()), paths[0])

        def failure(reason: str) -> InputError:
            return InputError(f"{path}: {reason}; run benchmarks/{file.removesuffix('.json')}.py")

        content = read_json(path, failure)
        if not isinstance(content, dict):
            raise failure("expected a report")
        return content


def write_machine(results: Results) -> Iterator[str]:
    """Where and when, and the commands."""
    report = results["small"]
    yield f"* **Machine**, {report['date']}: {Machine(**report['machine'])}."
    yield "* **Commands**, in this order:"
    yield ""
    for name in ("small", "baselines", "tiny", "base"):
        yield f"      {results[name]['command'].replace('--output DIR', f'--output OUT/{name}')}"


def write_targets(results: Results) -> Iterator[str]:
    """What was aimed at, and what came out."""
    rows = []
    crowds = [case for case in results["small"]["cases"] if case["people"] > 1]
    for verdict in judge([*results["baselines"]["cases"], *crowds], ON_CPU):
        target = verdict.target
        what = f"{' or '.join(target.precisions)} against {target.second}"
        case = f"{counted(target.people, 'person')}, {target.percent} % refined"
        best = (
            f"{verdict.first}: {verdict.ratio:.2f} ({verdict.low:.2f} to {verdict.high:.2f})" if verdict.first else ""
        )
        rows.append([what, case, f"{target.at_least:g}", best or "not compared", "yes" if verdict.met else "no"])
    yield from table(["", "", "times as fast, at least", "best engine (95 % interval)", "met"], rows)


def write_latency(results: Results) -> Iterator[str]:
    """Milliseconds a frame of both models, by people, rate and engine."""
    rows = []
    for name, title in _MODELS.items():
        cases = results[name]["cases"]
        for people in dict.fromkeys(case["people"] for case in cases):
            for_people = [case for case in cases if case["people"] == people]
            for contender in dict.fromkeys(key for case in for_people for key in case["contenders"]):
                means = [case["contenders"].get(contender, {}).get("mean_ms") for case in for_people]
                rows.append([title, str(people), contender, *("" if ms is None else f"{ms:.1f}" for ms in means)])
    rates = [f"{case['refine_percent']} % refined" for case in results["tiny"]["cases"] if case["people"] == 1]
    yield from table(["model", "people", "", *rates], rows)


def write_stages(results: Results) -> Iterator[str]:
    """The small model by stage, with its share of the peak."""
    report = results["small"]
    rows = []
    for case in report["cases"]:
        if case["refine_percent"] != 100:
            continue
        for name, values in case["contenders"].items():
            means, shares = values["means"], values["share_of_peak"]
            cells = [f"{means[stage]:.1f}" for stage in ("coarse", "fine")]
            cells += [f"{shares[stage]:.0%}" if stage in shares else "" for stage in ("coarse", "fine")]
            outside = values["mean_ms"] - means["coarse"] - means["fine"]
            rows.append([str(case["people"]), name, *cells, f"{outside:.2f}", f"{outside / values['mean_ms']:.1%}"])
    header = ["people", "", "coarse ms", "fine ms", "coarse of peak", "fine of peak", "outside the engines ms", "share"]
    yield from table(header, rows)
    yield ""
    for peak in report["peaks"]:
        speed = peak["multiply_adds_per_s"] / 1e9
        yield f"* Peak of {peak['precision']}: {speed:.0f} billion multiply-adds a second, {peak['library']}."


def write_dense(results: Results) -> Iterator[str]:
    """Against the dense model, on the same engine in the same precision."""
    rows = []
    for name, title in (("base", "base 384×288"), ("baselines", "small 256×192")):
        for case in results[name]["cases"]:
            for item in case["ratios"]:
                if item["second"] == f"dense {item['first']}":
                    ours, theirs = (case["contenders"][item[key]]["mean_ms"] for key in ("first", "second"))
                    ratio = f"{item['median']:.2f} ({item['low']:.2f} to {item['high']:.2f})"
                    percent = f"{case['refine_percent']} %"
                    cells = [title, str(case["people"]), percent, item["first"], f"{ours:.1f}", f"{theirs:.1f}"]
                    rows.append([*cells, ratio])
    header = ["model", "people", "refined", "", "SHaRPose ms", "dense ms", "times as fast (95 % interval)"]
    yield from table(header, rows)


def write_starts(results: Results) -> Iterator[str]:
    """Cold starts and memory, with their machine and commands."""
    folders = {"starts_tiny": _MODELS["tiny"], "starts_small": _MODELS["small"]}
    report = results["starts_tiny"]
    yield f"* **Machine**, {report['date']}: {Machine(**report['machine'])}."
    yield "* **Commands**:"
    yield ""
    for name in folders:
        yield f"      {results[name]['command'].replace('--output DIR', f'--output OUT/{name}')}"
    yield ""
    rows = []
    for name, title in folders.items():
        for contender, item in results[name]["cold_starts"].items():
            numbers = [f"{item[key]:.2f}" for key in ("seconds", "imports_s", "load_s", "first_frame_s")]
            cells = [*numbers, f"{item['host_peak_mib']:.0f}"] if not item["error"] else [item["error"], *[""] * 4]
            rows.append([title, contender, str(item["people"]), *cells])
    header = ["model", "", "people", "s to the first poses", "imports", "loading", "first frame", "memory MiB"]
    yield from table(header, rows)


def write_scaling(results: Results) -> Iterator[str]:
    """The tables of scaling.py, with their machine and command; of memory, its growth."""
    report = results["scaling"]
    yield f"* **Machine**, {report['date']}: {Machine(**report['machine'])}."
    yield f"* **Command**: `{report['command'].replace('--output DIR', '--output OUT/scaling')}`"
    yield ""
    yield f"{report['bundle']} on {report['device']} in {report['precision']}, half of the people refined."
    for part, rows in report["parts"].items():
        yield ""
        if part == "memory":
            frames, mib = rows[-1]["frame"], rows[-1]["MiB"]
            yield f"Memory over {frames:,} frames: {mib:.0f} MiB, {growth_mib(rows):+.1f} MiB after the first fifth."
            continue
        cells = [[cell(value) for value in row.values()] for row in rows]
        yield from table(list(rows[0]), cells)


_WRITERS: dict[str, Callable[[Results], Iterator[str]]] = {
    name.removeprefix("write_"): value for name, value in list(globals().items()) if name.startswith("write_")
}


def fill(text: str, results: Results) -> str:
    """A page with its blocks written anew; raises `InputError` for a block that nobody writes."""

    def written(match: re.Match[str]) -> str:
        if match[2] not in _WRITERS:
            raise InputError(f"block {match[2]}: expected one of {', '.join(_WRITERS)}")
        return match[1] + "\n".join(_WRITERS[match[2]](results)) + "\n\n<!-- end -->"

    return _BLOCK.sub(written, text)


def fill_models(text: str, results: Results) -> str:
    """The README with the column `CPU, none / all refined` of its table of models: cpu fp32, one person, means."""
    for name in _MODELS:
        means = {
            case["refine_percent"]: case["contenders"]["cpu fp32"]["mean_ms"]
            for case in results[name]["cases"]
            if case["people"] == 1
        }
        row = re.compile(rf"^(\| {name} \|(?:[^|\n]*\|){{6}})[^|\n]*\|", re.MULTILINE)
        text, count = row.subn(rf"\g<1> {means[0]:.1f} / {means[100]:.1f} ms |", text)
        if count != 1:
            raise InputError(f"README.md: expected one row of {name} in the table of models, found {count}")
    return text


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("folders", metavar="RESULTS...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 where a page has other numbers.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def command(folders: tuple[Path, ...], check: bool, debug: bool) -> int:
    """Write the numbers of RESULTS into README.md and docs/performance.md."""
    interruptible()
    results = Results(*folders)
    other: list[Path] = []
    for path, change in ((ROOT / "docs" / "performance.md", fill), (ROOT / "README.md", fill_models)):
        text = path.read_text("utf-8")
        changed = change(text, results)
        if changed != text:
            other.append(path)
            if not check:
                with replacing(path) as temporary:
                    temporary.write_text(changed, "utf-8")
    for path in other:
        click.echo(f"{path.relative_to(ROOT)}: {'has other numbers' if check else 'written'}")
    return int(check and bool(other))


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()

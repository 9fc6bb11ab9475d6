"""What a deadline leaves of refinement: `python benchmarks/deadline.py --bundle DIR --people 1,5,30 --output DIR`.

The built-in scene is run under deadlines between what the coarse stage alone takes and what all the refinements take
that the gate wants. Said are the share of frames that met the deadline, who was refined, and how good the poses are
(OKS with the scene's true keypoints) against choosing at random, against the coarse stage alone and against no
deadline.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

import click
import numpy as np
import numpy.typing as npt
from machine import describe_machine, number_list
from rich.console import Console
from rich.table import Table
from scene_truth import Interval, bootstrap, boxes_of, scenes_with, true_oks

from sharpose.bundle import Bundle, open_bundle
from sharpose.cli import main as run_command
from sharpose.engines.load import load_two_stage
from sharpose.engines.two_stage import TwoStage
from sharpose.runtime import Picture, PoseEstimator
from sharpose.runtime.deadline import DeadlineScheduler
from sharpose.runtime.deadline.plan import Candidates, priority
from sharpose.runtime.gate import Refine
from sharpose.scene import SceneFrame

__all__ = ["Case", "Policy", "Runner"]

_COARSE_ONLY = "nobody"  # whose frames are late says what the scheduler can do nothing about
_POLICIES = ("scheduled", "random", "scheduled, no carrying", "random, no carrying", _COARSE_ONLY)


@dataclass
class Policy:
    """What a way to choose did.

    Attributes:
        seconds: Of every frame.
        met: Share of the frames whose poses were there in time.
        wanted: People whom the gate wanted refined, all frames together; of them
        done: were refined,
        carried: kept what an earlier refinement found,
        deferred: were left as they were.
        oks: By person (the scene's number and the person's), in all frames.
    """

    seconds: list[float] = field(default_factory=list)
    met: float = 1.0
    wanted: int = 0
    done: int = 0
    carried: int = 0
    deferred: int = 0
    oks: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class Case:
    """One number of people under one deadline; milliseconds.

    Attributes:
        people: In the scene.
        share: How much of the time that the gate's refinements take was there, in percent.
        deadline_ms: The deadline.
        frames: How many frames were run.
        policies: By name.
        scheduled_less_random: OKS of the scheduler's choice less that of a random choice, by person.
        chosen_less_random: Likewise, where nobody keeps anything.
    """

    people: int
    share: float
    deadline_ms: float
    frames: int
    policies: dict[str, Policy]
    scheduled_less_random: Interval
    chosen_less_random: Interval


class Runner:
    """Runs scenes through one pair of engines.

    Args:
        bundle: The bundle.
        stages: Its engines.
        clock: Seconds; deadlines are in its terms.
    """

    def __init__(self, bundle: Bundle, stages: TwoStage, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rng = np.random.default_rng(0)
        self._ends = [PoseEstimator(bundle, stages, refine="never"), PoseEstimator(bundle, stages, refine="auto")]
        self._streams = 0
        self._estimators: dict[str, PoseEstimator] = {}
        for name in _POLICIES:
            scheduler = DeadlineScheduler(
                clock=clock,
                prioritise=self._at_random if name.startswith("random") else priority,
                carry=not name.endswith("no carrying"),
            )
            refine: Refine = "never" if name == _COARSE_ONLY else "auto"
            self._estimators[name] = PoseEstimator(bundle, stages, refine=refine, scheduler=scheduler)
            self._estimators[name].warm_up()

    def _at_random(self, people: Candidates) -> npt.NDArray[np.float64]:
        return self._rng.random(len(people))

    def limits(self, scenes: list[list[SceneFrame]]) -> tuple[Policy, Policy]:
        """The coarse stage only, and all that the gate wants: the least and the most that there can be time for."""
        found = Policy(), Policy()
        for estimator in self._ends:
            estimator.estimate([Picture(scenes[0][0].image, boxes_of(scenes[0][0]))])  # may cost more the first time
        for seed, frames in enumerate(scenes):
            for frame in frames:
                for estimator, policy in zip(self._ends, found, strict=True):
                    self._run(estimator, policy, frame, (0, seed), None)
        return found

    def measure(self, scenes: list[list[SceneFrame]], people: int, deadline: float, share: float) -> Case:
        """Run all policies under a deadline of so many seconds a frame.

        They take turns on every frame, so that they meet the same state of the machine.
        """
        policies = {name: Policy() for name in _POLICIES}
        for seed, frames in enumerate(scenes):
            self._streams += 1
            for frame in frames:
                for name in self._rng.permutation(list(policies)):
                    self._run(self._estimators[name], policies[name], frame, (self._streams, seed), deadline)
        for policy in policies.values():
            policy.met = float(np.mean(np.array(policy.seconds) <= deadline))
        return Case(
            people,
            share,
            deadline * 1000,
            sum(map(len, scenes)),
            policies,
            _difference(policies["scheduled"], policies["random"]),
            _difference(policies["scheduled, no carrying"], policies["random, no carrying"]),
        )

    def _run(
        self,
        estimator: PoseEstimator,
        policy: Policy,
        frame: SceneFrame,
        stream_and_seed: tuple[int, int],
        deadline: float | None,
    ) -> None:
        stream, seed = stream_and_seed
        began = self._clock()
        until = None if deadline is None else began + deadline
        (poses,) = estimator.estimate([Picture(frame.image, boxes_of(frame), stream, frame.time, until)])
        policy.seconds.append(self._clock() - began)
        policy.done += int(poses.refined.sum())
        policy.wanted += int(poses.refined.sum() if poses.wanted is None else poses.wanted.sum())
        policy.carried += 0 if poses.carried is None else int(poses.carried.sum())
        policy.deferred += int(poses.deferred.sum())
        oks = true_oks(poses.keypoints, frame, estimator.skeleton.sigmas)
        for who, value in zip(frame.ids, oks, strict=True):
            policy.oks[seed, int(who)].append(float(value))


def _difference(first: Policy, second: Policy) -> Interval:
    return bootstrap({who: np.subtract(values, second.oks[who]).tolist() for who, values in first.oks.items()})


SIZE = (720, 1280)
ABOVE = 1.1  # the shortest deadline, as a multiple of what 95 % of the frames take with the coarse stage alone
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def table_of(cases: list[Case], ends: dict[int, tuple[Policy, Policy]]) -> Table:
    """A row for each deadline and way to choose."""
    table = Table("people", "deadline ms", "who is refined", "met", "p95 ms", "wanted", "done", "carried", "OKS")
    for column in table.columns[3:]:
        column.justify = "right"
    for people, (never, gate) in ends.items():
        for name, policy in (("nobody (coarse only)", never), ("all the gate wants", gate)):
            _row(table, people, "none", name, policy, "")
        for case in (case for case in cases if case.people == people):
            for name, policy in case.policies.items():
                _row(table, people, f"{case.deadline_ms:.0f} ({case.share:g} %)", name, policy, f"{policy.met:.1%}")
        table.add_section()
    return table


def _row(table: Table, people: int, deadline: str, name: str, policy: Policy, met: str) -> None:
    share = [f"{count / policy.wanted:.0%}" if policy.wanted else "-" for count in (policy.done, policy.carried)]
    p95 = float(np.percentile(policy.seconds, 95)) * 1000
    oks = bootstrap(policy.oks)
    table.add_row(str(people), deadline, name, met, f"{p95:.1f}", str(policy.wanted), *share, f"{oks.mean:.4f}")


def report_of(policy: Policy) -> dict[str, object]:
    """A policy as JSON has it."""
    p50, p95, p99 = (float(value) * 1000 for value in np.percentile(policy.seconds, (50, 95, 99)))
    counts = {name: getattr(policy, name) for name in ("met", "wanted", "done", "carried", "deferred")}
    return {**counts, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "oks": asdict(bootstrap(policy.oks))}


def say(what: str, interval: Interval) -> str:
    """An interval in words."""
    return f"{what}: OKS {interval.mean:+.4f} (95 % interval {interval.low:+.4f} to {interval.high:+.4f})"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--bundle", type=click.Path(path_type=Path), required=True, help="Folder written by sharpose-export.")
@click.option("--device", default="cpu", show_default=True, help="As sharpose-run's.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the engine; its own choice if left out.")
@click.option(
    "--people", default="1,5,10,20,30", show_default=True, callback=number_list(1, 64), help="People in the scene."
)
@click.option(
    "--time",
    "shares",
    default="10,25,50",
    show_default=True,
    callback=number_list(0, 1000),
    help="Deadlines: percent of the time that the gate's refinements take, on 1.1 times the coarse stage's.",
)
@click.option("--frames", default=50, show_default=True, type=click.IntRange(1), help="Frames of each scene.")
@click.option("--scenes", default=2, show_default=True, type=click.IntRange(1), help="Scenes (seeds) of each size.")
@click.option(
    "--clock",
    default="wall",
    show_default=True,
    type=click.Choice(list(CLOCKS)),
    help="processor: what this process computes, on a CPU that is busy with other things; with --threads 1.",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for deadline.json.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def command(
    bundle: Path,
    device: str,
    threads: int | None,
    people: list[int],
    shares: list[int],
    frames: int,
    scenes: int,
    clock: str,
    output: Path,
    debug: bool,
) -> int:
    """Measure whether deadlines are met, and what choosing well is worth."""
    if clock == "processor" and (device, threads) != ("cpu", 1):
        raise click.UsageError("--clock processor is for --device cpu --threads 1, where all is computed in one thread")
    try:
        output.mkdir(parents=True, exist_ok=True)  # before the long part
    except OSError as error:
        raise click.UsageError(f"--output {output}: expected a folder that can be made: {error.strerror}") from None
    opened = open_bundle(bundle)
    stages = load_two_stage(opened, device, threads=threads)
    runner = Runner(opened, stages, CLOCKS[clock])
    cases: list[Case] = []
    ends: dict[int, tuple[Policy, Policy]] = {}
    for count in people:
        drawn = scenes_with(count, frames, scenes, SIZE)
        never, gate = ends[count] = runner.limits(drawn)
        coarse_only = float(np.percentile(never.seconds, 95)) * ABOVE
        refining = max(float(np.median(gate.seconds) - np.median(never.seconds)), 0.0)
        for share in shares:
            case = runner.measure(drawn, count, coarse_only + refining * share / 100, share)
            cases.append(case)
            scheduled = case.policies["scheduled"]
            click.echo(
                f"{count} people, {case.deadline_ms:.1f} ms: {scheduled.met:.1%} of frames in time "
                f"(coarse only: {case.policies['nobody'].met:.1%}), "
                f"{scheduled.done} of {scheduled.wanted} refined, {scheduled.carried} carried; "
                + say("less random", case.scheduled_less_random)
                + "; "
                + say("nobody carrying", case.chosen_less_random)
            )
    stages.close()
    machine = describe_machine()
    console = Console(width=140)
    console.print(table_of(cases, ends))
    console.print(f"{opened.model.name} on {device}; {machine.processor}, {machine.cores} cores {machine.gpu}")
    numbers = {"people": people, "time": shares}
    arguments = " ".join(f"--{name} {','.join(map(str, values))}" for name, values in numbers.items())
    report = {
        "bundle": opened.model.name,
        "weights": opened.manifest.source,
        "quality_threshold": opened.manifest.gate.quality_threshold,
        "device": device,
        "command": f"python benchmarks/deadline.py --bundle DIR {arguments} --frames {frames} --scenes {scenes}"
        + (f" --threads {threads}" if threads else "")
        + f" --device {device} --clock {clock} --output DIR",
        "machine": asdict(machine),
        "without_deadline": {
            str(count): {"never": report_of(never), "gate": report_of(gate)} for count, (never, gate) in ends.items()
        },
        "cases": [
            {
                "people": case.people,
                "share": case.share,
                "deadline_ms": case.deadline_ms,
                "frames": case.frames,
                "policies": {name: report_of(policy) for name, policy in case.policies.items()},
                "scheduled_less_random": asdict(case.scheduled_less_random),
                "chosen_less_random": asdict(case.chosen_less_random),
            }
            for case in cases
        ],
    }
    (output / "deadline.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    click.echo(f"wrote {output / 'deadline.json'}")
    return 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()

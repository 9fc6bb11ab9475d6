"""Refinement within a deadline: `python benchmarks/deadline.py --bundle DIR --people 1,5,30 --output DIR`.

The built-in scene runs under deadlines between the time of the coarse stage alone and that of everything the gate wants
refined. The report has the share of frames in time, the number of people refined, and the accuracy (OKS with the
scene's true keypoints) of the scheduler's choice, of a random choice, of the coarse stage alone and without a deadline.
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C while modules are imported
    from sharpose.__main__ import end_on_signals

    end_on_signals()

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

import click
import numpy as np
import numpy.typing as npt
from measuring.command import begin, bundle_option, device_option, report_options, threads_option
from report import (
    benchmark_command,
    command_to_repeat,
    kept_when_interrupted,
    number_list,
    write_file,
)
from rich.console import Console
from rich.table import Table

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.cli import Whole, option
from sharpose.cli import main as run_command
from sharpose.engines.load import load_two_stage
from sharpose.engines.two_stage import TwoStage
from sharpose.runtime import Boxes, Picture, PoseEstimator
from sharpose.runtime.refinement import DeadlineScheduler
from sharpose.runtime.refinement.gate import Refine
from sharpose.runtime.refinement.priority import Candidates, priority
from sharpose.scene import Scene, SceneConfig, SceneFrame
from sharpose.scene.keypoints import rows_of
from sharpose.similarity import body_area, pose_oks
from sharpose.skeleton import Skeleton

SIZE = (720, 1280)  # height and width of the scene
_MODEL, _CASES = "Model", "Cases"
COARSE_ONLY = "nobody"  # its late frames are the ones that no choice could have saved
POLICIES = ("scheduled", "random", "scheduled, no carrying", "random, no carrying", COARSE_ONLY)
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
_MARGIN = 1.1  # the shortest deadline, as a multiple of the 95th percentile of the coarse stage alone


@dataclass
class Policy:
    """Totals of one way to choose who is refined."""

    seconds: list[float] = field(default_factory=list)  # of every frame
    met: float = 1.0  # share of the frames in time
    wanted: int = 0  # people that the gate wanted refined, over all frames
    done: int = 0  # of them, refined
    carried: int = 0  # kept the refinement of an earlier frame
    deferred: int = 0  # kept their coarse pose
    # By scene and person, of every frame; NaN where no keypoint is inside the picture.
    oks: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))

    def report(self) -> dict[str, object]:
        """The policy as deadline.json has it."""
        p50, p95, p99 = (float(value) * 1000 for value in np.percentile(self.seconds, (50, 95, 99)))
        counts = {name: getattr(self, name) for name in ("met", "wanted", "done", "carried", "deferred")}
        return {**counts, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "oks": asdict(bootstrap(self.oks))}


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"OKS {self.mean:+.4f} (95 % interval {self.low:+.4f} to {self.high:+.4f})"


def bootstrap(values: Mapping[Hashable, Sequence[float]], rounds: int = 2000) -> Interval:
    """The mean of grouped values (one person in all frames), with whole groups resampled `rounds` times.

    NaN is left out; at least one value must be a number.
    """
    groups = [group[~np.isnan(group)] for group in map(np.asarray, values.values())]
    sums = np.array([group.sum() for group in groups if len(group)])
    counts = np.array([len(group) for group in groups if len(group)])
    drawn = np.random.default_rng(0).integers(len(sums), size=(rounds, len(sums)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (2.5, 97.5))
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def difference(first: Policy, second: Policy) -> Interval:
    """How much better the first policy's poses are than the second's, in OKS by person."""
    return bootstrap({who: np.subtract(values, second.oks[who]).tolist() for who, values in first.oks.items()})


@dataclass(frozen=True)
class Case:
    """One number of people under one deadline."""

    people: int  # number of people in the scene
    share: float  # percentage of the gate's refinement time that the deadline leaves
    deadline_ms: float  # the deadline in milliseconds
    frames: int  # number of frames
    policies: dict[str, Policy]  # totals by policy
    scheduled_less_random: Interval  # OKS gained by the scheduler's choice over a random one
    chosen_less_random: Interval  # the same without carrying refinements from earlier frames


def scenes_with(people: int, frames: int, count: int, skeleton: Skeleton) -> list[list[SceneFrame]]:
    """The first `frames` frames of the first `count` scenes of so many people that start with somebody in view.

    Raises:
        InputError: the skeleton has keypoints that scenes lack.
    """
    found: list[list[SceneFrame]] = []
    seed = 0
    while len(found) < count:
        config = SceneConfig(seed=seed, people=people, frames=frames, height=SIZE[0], width=SIZE[1])
        scene = Scene(config, skeleton)
        seed += 1
        first = scene.frame(0)
        if (first.keypoints[..., 2] > 0).any():
            found.append([first, *(scene.frame(index) for index in range(1, frames))])
    return found


class Benchmark:
    """Runs scenes through one bundle's engines; `clock` gives seconds, as deadlines are measured."""

    def __init__(self, bundle: Bundle, stages: TwoStage, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rng = np.random.default_rng(0)
        self._bounds = [
            PoseEstimator.from_stages(bundle, stages, refine="never"),
            PoseEstimator.from_stages(bundle, stages, refine="auto"),
        ]
        self._streams = 0
        self._estimators: dict[str, PoseEstimator] = {}
        for name in POLICIES:
            scheduler = DeadlineScheduler(
                clock=clock,
                prioritise=self._at_random if name.startswith("random") else priority,
                carry=not name.endswith("no carrying"),
            )
            refine: Refine = "never" if name == COARSE_ONLY else "auto"
            self._estimators[name] = PoseEstimator.from_stages(bundle, stages, refine=refine, scheduler=scheduler)
            self._estimators[name].warm_up()

    def _at_random(self, people: Candidates) -> npt.NDArray[np.float64]:
        return self._rng.random(len(people))

    def without_deadline(self, scenes: list[list[SceneFrame]]) -> tuple[Policy, Policy]:
        """The coarse stage alone, and everything the gate wants: the least and the most that there can be time for."""
        found = Policy(), Policy()
        for estimator in self._bounds:
            estimator.estimate([_picture(scenes[0][0])])  # the first run may cost more
        for seed, frames in enumerate(scenes):
            for frame in frames:
                for estimator, policy in zip(self._bounds, found, strict=True):
                    self._run(estimator, policy, frame, seed)
        return found

    def measure(self, scenes: list[list[SceneFrame]], people: int, deadline: float, share: float) -> Case:
        """Run all policies with a deadline in seconds. They alternate on every frame, so all meet the same machine."""
        policies = {name: Policy() for name in POLICIES}
        for seed, frames in enumerate(scenes):
            self._streams += 1
            for frame in frames:
                for name in self._rng.permutation(list(policies)):
                    self._run(self._estimators[name], policies[name], frame, seed, deadline)
        for policy in policies.values():
            policy.met = float(np.mean(np.array(policy.seconds) <= deadline))
        return Case(
            people,
            share,
            deadline * 1000,
            sum(map(len, scenes)),
            policies,
            difference(policies["scheduled"], policies["random"]),
            difference(policies["scheduled, no carrying"], policies["random, no carrying"]),
        )

    def _run(
        self, estimator: PoseEstimator, policy: Policy, frame: SceneFrame, seed: int, deadline: float | None = None
    ) -> None:
        began = self._clock()
        until = None if deadline is None else began + deadline
        (poses,) = estimator.estimate([_picture(frame, self._streams, until)])
        policy.seconds.append(self._clock() - began)
        policy.done += int(poses.refined.sum())
        policy.wanted += int(poses.refined.sum() if poses.wanted is None else poses.wanted.sum())
        policy.carried += 0 if poses.carried is None else int(poses.carried.sum())
        policy.deferred += int(poses.deferred.sum())
        areas, inside = body_area(frame.boxes_xyxy), frame.keypoints[..., 2] > 0
        oks = pose_oks(poses.keypoints, frame.keypoints, areas, estimator.skeleton.sigmas, inside)
        for who, value in zip(frame.ids, oks, strict=True):
            policy.oks[seed, int(who)].append(float(value))


def _picture(frame: SceneFrame, stream: int = 0, deadline: float | None = None) -> Picture:
    return Picture(frame.image, Boxes.from_xyxy(frame.boxes_xyxy), stream, frame.time, deadline)


def table_of(cases: list[Case], bounds: dict[int, tuple[Policy, Policy]]) -> Table:
    """A row for each deadline and policy."""
    table = Table("people", "deadline ms", "who is refined", "in time", "p95 ms", "wanted", "done", "carried", "OKS")
    for column in table.columns[3:]:
        column.justify = "right"

    def row(people: int, deadline: str, name: str, policy: Policy, met: str) -> None:
        shares = [f"{count / policy.wanted:.0%}" if policy.wanted else "-" for count in (policy.done, policy.carried)]
        p95 = f"{np.percentile(policy.seconds, 95) * 1000:.1f}"
        oks = f"{bootstrap(policy.oks).mean:.4f}"
        table.add_row(str(people), deadline, name, met, p95, str(policy.wanted), *shares, oks)

    for people, (never, gate) in bounds.items():
        row(people, "none", "nobody (coarse only)", never, "")
        row(people, "none", "all the gate wants", gate, "")
        for case in (case for case in cases if case.people == people):
            for name, policy in case.policies.items():
                row(people, f"{case.deadline_ms:.0f} ({case.share:g} %)", name, policy, f"{policy.met:.1%}")
        table.add_section()
    return table


@benchmark_command(
    "python benchmarks/deadline.py --bundle bundle --output out",
    "python benchmarks/deadline.py --bundle bundle --threads 1 --people 1,5,30 --time 25 --output out",
)
@bundle_option(_MODEL)
@device_option(_MODEL)
@threads_option(_MODEL)
@option(
    _CASES,
    "--people",
    default="1,5,10,20,30",
    show_default=True,
    callback=number_list(1, 64),
    help="Numbers of people.",
)
@option(
    _CASES,
    "--time",
    "shares",
    default="10,25,50",
    show_default=True,
    callback=number_list(0, 1000),
    help="Deadlines: percentages of the gate's refinement time, added to 1.1 times the coarse stage's time.",
)
@option(_CASES, "--frames", default=50, show_default=True, type=Whole(1), help="Frames per scene.")
@option(_CASES, "--scenes", default=2, show_default=True, type=Whole(1), help="Scenes (seeds) per case.")
@option(
    _CASES,
    "--clock",
    default="wall",
    show_default=True,
    type=click.Choice(list(CLOCKS)),
    help="processor: CPU time of this process, for a busy CPU; needs --device cpu --threads 1.",
)
@report_options("deadline.json", "cases")
def command(
    bundle: Path | None,
    device: str,
    threads: int | None,
    people: list[int],
    shares: list[int],
    frames: int,
    scenes: int,
    clock: str,
    output: Path,
    overwrite: bool,
    debug: bool,
) -> int:
    """Measure how many frames meet their deadline, and what choosing well is worth."""
    if clock == "processor" and (device, threads) != ("cpu", 1):
        raise click.UsageError("--clock processor counts the time of one thread: give --device cpu --threads 1")
    machine = begin(output, "deadline.json", overwrite=overwrite)
    opened = open_bundle(bundle or shipped_bundle())
    skeleton = opened.model.skeleton
    rows_of(skeleton)  # refuses one that scenes lack keypoints of, before engines are loaded
    stages = load_two_stage(opened, device, threads=threads)
    benchmark = Benchmark(opened, stages, CLOCKS[clock])
    cases: list[Case] = []
    bounds: dict[int, tuple[Policy, Policy]] = {}

    def write() -> None:
        console = Console(width=140)
        console.print(table_of(cases, bounds))
        console.print(f"{opened.model.name} on {device}; {machine.processor}, {machine.cores} cores {machine.gpu}")
        report = {
            "bundle": opened.model.name,
            "weights": opened.manifest.source,
            "quality_threshold": opened.manifest.gate.quality_threshold,
            "device": device,
            "command": command_to_repeat("deadline.py"),
            "machine": asdict(machine),
            "without_deadline": {
                str(count): {"never": never.report(), "gate": gate.report()} for count, (never, gate) in bounds.items()
            },
            "cases": [
                {
                    **vars(case),
                    "policies": {name: policy.report() for name, policy in case.policies.items()},
                    "scheduled_less_random": asdict(case.scheduled_less_random),
                    "chosen_less_random": asdict(case.chosen_less_random),
                }
                for case in cases
            ],
        }
        write_file(output / "deadline.json", json.dumps(report, indent=2) + "\n")
        click.echo(f"wrote {output / 'deadline.json'}")

    with contextlib.closing(stages), kept_when_interrupted(cases, "case", output, write):
        for count in people:
            drawn = scenes_with(count, frames, scenes, skeleton)
            never, gate = bounds[count] = benchmark.without_deadline(drawn)
            coarse_only = float(np.percentile(never.seconds, 95)) * _MARGIN
            refining = max(float(np.median(gate.seconds) - np.median(never.seconds)), 0.0)
            for share in shares:
                case = benchmark.measure(drawn, count, coarse_only + refining * share / 100, share)
                cases.append(case)
                scheduled = case.policies["scheduled"]
                click.echo(
                    f"{count} people, {case.deadline_ms:.1f} ms: {scheduled.met:.1%} of frames in time "
                    f"(coarse only: {case.policies[COARSE_ONLY].met:.1%}), {scheduled.done} of {scheduled.wanted} "
                    f"refined, {scheduled.carried} carried; against a random choice: {case.scheduled_less_random}; "
                    f"without carrying: {case.chosen_less_random}"
                )
        write()
    return 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()

"""What the speed is expected to be, and the cases of `latency.py` judged by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Case = Mapping[str, Any]
"""One of the `cases` of `latency.json`."""

GATE_SHARE = 0.05
"""Of a frame on a GPU, what gate and gather may take."""
OVER_ENGINES = 1.2
"""How many times its engines a frame on a GPU may take."""


@dataclass(frozen=True)
class Target:
    """How many times as fast a contender of a precision shall be as another, with so many people and refined so."""

    precisions: tuple[str, ...]
    at_least: float
    second: str  # how the other contender's name begins
    people: int
    percent: int  # refined


ON_CPU = (
    Target(("fp32",), 1.6, "torch-eager", 1, 50),
    Target(("int8",), 2.5, "torch-eager", 1, 50),
    Target(("int8",), 2.8, "cpu fp32", 16, 100),
)
ON_GPU = (
    Target(("fp16", "fp32"), 4.0, "torch-eager", 1, 100),
    Target(("fp16", "fp32"), 1.5, "torch-compiled", 64, 100),
    Target(("fp16", "fp32"), 1.4, "dense", 64, 50),
)


@dataclass(frozen=True)
class Verdict:
    """What came of a target."""

    target: Target
    first: str = ""  # the fastest contender that fits; empty if the cases don't hold the comparison
    second: str = ""
    ratio: float = 0.0
    low: float = 0.0  # of the 95 % interval
    high: float = 0.0

    @property
    def met(self) -> bool:
        """Whether the median ratio reaches it."""
        return self.ratio >= self.target.at_least

    def __str__(self) -> str:
        target = self.target
        case = f"{target.people} {'person' if target.people == 1 else 'people'}, {target.percent} % refined"
        wanted = f"expected {target.at_least:g}"
        if not self.first:
            return f"{' or '.join(target.precisions)} against {target.second}, {case}: not compared; {wanted}"
        interval = f"95 % interval {self.low:.2f} to {self.high:.2f}"
        return f"{self.first} is {self.ratio:.2f} times as fast as {self.second}, {case} ({interval}); {wanted}"


def judge(cases: Sequence[Case], targets: Sequence[Target]) -> list[Verdict]:
    """The best contender of the target's precision, on whichever device, against the other one."""
    return [max(_fitting(cases, target), key=lambda item: item.ratio, default=Verdict(target)) for target in targets]


def _fitting(cases: Sequence[Case], target: Target) -> Iterator[Verdict]:
    for case in cases:
        if (case["people"], case["refine_percent"]) != (target.people, target.percent):
            continue
        for item in case["ratios"]:
            low, median, high = (item[name] for name in ("low", "median", "high"))
            pairs = (
                Verdict(target, item["first"], item["second"], median, low, high),
                Verdict(target, item["second"], item["first"], 1 / median, 1 / high, 1 / low),
            )
            for verdict in pairs:
                device, _, precision = verdict.first.partition(" ")
                is_engine = precision in target.precisions and device != "peer"
                if is_engine and f"{verdict.second} ".startswith(f"{target.second} "):
                    yield verdict


def judge_overhead(cases: Sequence[Case]) -> list[str]:
    """What of a frame on a GPU takes too long beside its engines, a line each."""
    found = []
    for case in cases:
        for name, values in case["contenders"].items():
            means = values["means"]
            engines, chosen = means["coarse"] + means["fine"], means["gate"] + means["gather"]
            words = f"{name}, {case['people']} people, {case['refine_percent']} % refined"
            if chosen > GATE_SHARE * values["mean_ms"]:
                found.append(f"{words}: gate and gather take {chosen / values['mean_ms']:.1%} of a frame")
            if values["mean_ms"] > OVER_ENGINES * engines:
                found.append(f"{words}: a frame takes {values['mean_ms'] / engines:.2f} times its engines")
    return found

"""Targets judged on made-up cases."""

from __future__ import annotations

from typing import Any

from measuring.targets import ON_CPU, Target, judge, judge_overhead


def _case(people: int, percent: int, *ratios: tuple[str, str, float]) -> dict[str, Any]:
    rows = [
        {"first": first, "second": second, "median": value, "low": value * 0.9, "high": value * 1.1}
        for first, second, value in ratios
    ]
    return {"people": people, "refine_percent": percent, "ratios": rows}


def test_the_best_engine_of_the_precision_is_judged_in_either_direction() -> None:
    cases = [
        _case(
            1,
            50,
            ("cpu fp32", "openvino fp32", 0.9),
            ("cpu fp32", "torch-eager cpu fp32", 1.5),
            ("torch-eager cpu fp32", "openvino fp32", 0.5),
            ("cpu int8", "torch-eager cpu fp32", 2.0),
            ("both-stages cpu fp32", "torch-eager cpu fp32", 9.0),
            ("peer x cpu", "torch-eager cpu fp32", 9.0),
        ),
        _case(16, 100, ("cpu fp32", "openvino int8", 0.25)),
    ]
    fp32, int8, batch, dense = judge(cases, [*ON_CPU, Target(("fp32",), 1.4, "dense", 1, 50)])
    assert (fp32.first, fp32.ratio, fp32.met) == ("openvino fp32", 2.0, True)
    assert (round(fp32.low, 3), round(fp32.high, 3)) == (1.818, 2.222)
    assert str(fp32).startswith("openvino fp32 is 2.00 times as fast as torch-eager cpu fp32, 1 person, 50 % refined (")
    assert (int8.first, int8.met) == ("cpu int8", False)
    assert (batch.first, batch.second, batch.ratio) == ("openvino int8", "cpu fp32", 4.0)
    assert not dense.met
    assert str(dense) == "fp32 against dense, 1 person, 50 % refined: not compared; expected 1.4"


def test_another_number_of_people_is_not_the_target() -> None:
    cases = [_case(2, 50, ("cpu fp32", "torch-eager cpu fp32", 9.0))]
    assert not judge(cases, [Target(("fp32",), 1.0, "torch-eager", 1, 50)])[0].met


def test_what_takes_too_long_beside_the_engines() -> None:
    good = {"means": {"coarse": 4.0, "fine": 5.0, "gate": 0.1, "gather": 0.3}, "mean_ms": 10.0}
    slow = {"means": {"coarse": 4.0, "fine": 4.0, "gate": 0.5, "gather": 0.1}, "mean_ms": 10.0}
    case = {"people": 8, "refine_percent": 50, "contenders": {"a": good, "b": slow}}
    assert judge_overhead([case]) == [
        "b, 8 people, 50 % refined: gate and gather take 6.0% of a frame",
        "b, 8 people, 50 % refined: a frame takes 1.25 times its engines",
    ]

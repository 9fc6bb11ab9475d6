from __future__ import annotations

import pytest

from sharpose.runtime.sources.live import Backoff


def test_waits_double_up_to_the_cap():
    backoff = Backoff(0.5, 30.0, uniform=lambda: 0.0)
    assert [backoff.next_wait() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert backoff.attempts == 9


def test_jitter_shortens_a_wait_by_up_to_half():
    draws = iter([0.0, 0.5, 0.999999])
    backoff = Backoff(8.0, 8.0, uniform=lambda: next(draws))
    assert [backoff.next_wait() for _ in range(3)] == pytest.approx([8.0, 6.0, 4.0], abs=1e-4)


def test_only_a_healthy_connection_begins_anew():
    backoff = Backoff(1.0, 30.0, healthy_after=5.0, uniform=lambda: 0.0)
    backoff.next_wait()
    backoff.next_wait()
    backoff.delivered(4.9)
    assert backoff.next_wait() == 4.0
    backoff.delivered(5.0)
    assert backoff.next_wait() == 1.0


def test_years_of_trying_do_not_overflow():
    backoff = Backoff(uniform=lambda: 0.0)
    assert {backoff.next_wait() for _ in range(5000)} >= {0.5, 30.0}
    assert backoff.next_wait() == 30.0

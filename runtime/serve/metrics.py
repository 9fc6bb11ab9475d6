"""The numbers of all streams for Prometheus. Needs prometheus-client, the extra `serve`: import it where it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sharpose.runtime.statistics import AGE, STAGES, WRITE, ServerStatistics, StreamSnapshot

_COUNTERS: dict[str, str] = {
    "frames": "Frames whose poses were found.",
    "people": "People in them.",
    "refined": "People that the fine stage looked at.",
    "wanted": "People that the gate wanted refined.",
    "deferred": "People that the gate wanted refined while there was no time.",
    "dropped": "Frames dropped for newer ones.",
    "reconnects": "Times that the source was reconnected.",
}
_GAUGES: dict[str, tuple[str, Callable[[StreamSnapshot], float]]] = {
    "connected": ("1 while the source delivers, else 0.", lambda numbers: float(numbers.connected)),
    "people_now": ("People in the newest frame.", lambda numbers: float(numbers.people_now)),
    "silence_seconds": ("Seconds since the newest frame.", lambda numbers: numbers.silence),
}


class Metrics(Collector):
    """Writes the same snapshots that the page shows.

    Args:
        read: Gives the numbers of all streams by name.
        server: Counts the requests to the server that runs the model; None where none does.
    """

    def __init__(
        self, read: Callable[[], Mapping[str, StreamSnapshot]], server: ServerStatistics | None = None
    ) -> None:
        self._read, self._server = read, server
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, in the format that the `Accept` header asks for."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # for a version that is no number, as clients may send it
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    def collect(self) -> Iterable[Metric]:
        """All families, for prometheus-client."""
        streams = self._read()
        for name, meaning in _COUNTERS.items():
            counter = CounterMetricFamily(f"sharpose_{name}", meaning, labels=["stream"])
            for stream, numbers in streams.items():
                counter.add_metric([stream], getattr(numbers, name))
            yield counter
        for name, (meaning, value) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"sharpose_{name}", meaning, labels=["stream"])
            for stream, numbers in streams.items():
                gauge.add_metric([stream], value(numbers))
            yield gauge
        stages = HistogramMetricFamily(
            "sharpose_stage_seconds", "Time that a stage took for a frame.", labels=["stream", "stage"]
        )
        ages = HistogramMetricFamily(
            "sharpose_frame_age_seconds", "Age of a live frame when its inference began.", labels=["stream"]
        )
        for stream, numbers in streams.items():
            for stage in STAGES:
                if stage != WRITE and len(durations := numbers.durations[stage]):
                    stages.add_metric([stream, stage], durations.cumulative, durations.sum)
            if numbers.live:
                ages.add_metric([stream], numbers.durations[AGE].cumulative, numbers.durations[AGE].sum)
        yield stages
        yield ages
        if self._server is not None:
            yield from _server_families(self._server)


def _server_families(server: ServerStatistics) -> Iterable[Metric]:
    numbers = server.snapshot()
    for name, meaning, value in (
        ("requests", "Requests to the server that were answered with poses.", numbers.requests),
        ("failed", "Tries that failed, contact included: the server was busy, gone, late or failing.", numbers.failed),
        ("dropped", "Live frames that were dropped for that.", numbers.dropped),
    ):
        yield CounterMetricFamily(f"sharpose_server_{name}", meaning, value=value)
    seconds = HistogramMetricFamily("sharpose_server_seconds", "Time of an answered request, from first byte to last.")
    seconds.add_metric([], numbers.durations.cumulative, numbers.durations.sum)
    yield seconds

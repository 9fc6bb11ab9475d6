"""The numbers of all streams for Prometheus. Needs prometheus-client, the extra `serve`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sharpose.runtime.serve.numbers import StreamNumbers

__all__ = ["Metrics"]

_COUNTERS: dict[str, str] = {
    "frames": "Frames whose poses were found.",
    "people": "People in them.",
    "refined": "People that the fine stage looked at.",
    "wanted": "People whom the gate wanted refined.",
    "deferred": "People whom the gate wanted refined while there was no time.",
    "dropped": "Frames that were never looked at, because newer ones had come.",
    "reconnects": "Times that the source was connected anew.",
}
_GAUGES: dict[str, tuple[str, Callable[[StreamNumbers], float]]] = {
    "connected": ("1 while the source delivers, else 0.", lambda stream: float(stream.connected)),
    "people_now": ("People in the newest frame.", lambda stream: float(stream.people_now)),
    "silence_seconds": ("Seconds since the newest frame.", lambda stream: stream.silence),
}


class Metrics(Collector):
    """Writes what `read` says.

    The counts are kept once, where the page reads them too, so that both always agree.

    Args:
        read: Gives the numbers of all streams, each under a name of its own.
    """

    def __init__(self, read: Callable[[], Sequence[StreamNumbers]]) -> None:
        self._read = read
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, in the format that the `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterable[Metric]:
        """All families, for prometheus-client."""
        streams = self._read()
        for name, meaning in _COUNTERS.items():
            counter = CounterMetricFamily(f"sharpose_{name}", meaning, labels=["stream"])
            for stream in streams:
                counter.add_metric([stream.name], getattr(stream, name))
            yield counter
        for name, (meaning, value) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"sharpose_{name}", meaning, labels=["stream"])
            for stream in streams:
                gauge.add_metric([stream.name], value(stream))
            yield gauge
        stages = HistogramMetricFamily(
            "sharpose_stage_seconds", "Time that a stage took for a frame.", labels=["stream", "stage"]
        )
        ages = HistogramMetricFamily(
            "sharpose_frame_age_seconds", "Age of a live frame when its inference began.", labels=["stream"]
        )
        for stream in streams:
            for stage, histogram in stream.stage_seconds.items():
                stages.add_metric([stream.name, stage], histogram.cumulative, histogram.sum)
            if stream.live:
                ages.add_metric([stream.name], stream.age_seconds.cumulative, stream.age_seconds.sum)
        yield stages
        yield ages

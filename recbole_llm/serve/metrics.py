"""What the service counts of itself, for Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

from recbole_llm.serve.service import Service

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds; the goal is a fiftieth of one."""
TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of ``render``."""


class Metrics:
    """Counters of one service.

    Args:
        service: whose model and swaps are told.
    """

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "recbole_llm_requests", "Requests that were answered.", ["path", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "recbole_llm_request_seconds", "From a request's headers to its answer.", ["path"],
            buckets=_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._shed = Counter(
            "recbole_llm_shed", "Requests that were refused because too many were being answered.",
            registry=self._registry,
        )  # fmt: skip
        self._registry.register(_Following(service))

    def shed(self) -> None:
        """Count a refused request."""
        self._shed.inc()

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            path: the pattern that it matched.
        """
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def render(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


class _Following:
    """What the service ranks by, read when it is asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Any:
        """For Prometheus' registry."""
        service, snapshot = self._service, self._service.snapshot
        model = InfoMetricFamily("recbole_llm_model", "The model that ranks.")
        model.add_metric([], {"version": snapshot.model_version, "ds": snapshot.ds or ""})
        yield model
        for name, text, value in (
            ("items", "Items on sale.", len(snapshot.ranker.catalogue.items)),
            ("swaps", "Times that a new model or table came in.", service.n_swaps),
            ("failed_swaps", "Times that one could not be loaded.", service.n_failed_swaps),
        ):
            yield GaugeMetricFamily(f"recbole_llm_{name}", text, value=value)

"""The metrics that each process exports, and the endpoint that serves them (docs/prometheus.md)."""

from tppo.prometheus.exporter import Exporter
from tppo.prometheus.server import serving

__all__ = ["Exporter", "serving"]

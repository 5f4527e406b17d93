"""What each process tells Prometheus, and the address at which it does (docs/prometheus.md)."""

from tppo.prometheus.exporter import Exporter
from tppo.prometheus.server import check, serving

__all__ = ["Exporter", "check", "serving"]

"""What each process tells Prometheus, and the address at which it does (docs/prometheus.md)."""

from tppo.prometheus.exporter import Exporter
from tppo.prometheus.server import serving

__all__ = ["Exporter", "serving"]

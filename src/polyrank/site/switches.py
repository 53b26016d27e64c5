"""Environment of Flower's processes, on a site and on the server."""

from __future__ import annotations

SWITCHES = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "http_proxy": "http://127.0.0.1:9",  # nobody: whatever is set, Ray asks metadata services which cloud this is
    "no_proxy": "127.0.0.1,localhost",
}
"""Environment in which Flower and Ray install nothing and send nothing away; a test looks at the packets."""

"""The SDK's builders and types of classic dashboards, without its advice to use the newer format.

Grafana before 13 cannot read that one, and every Grafana since 10 reads this. The advice is a DeprecationWarning at import.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, timeseries
    from grafana_foundation_sdk.builders import dashboard as builders
    from grafana_foundation_sdk.models import common as options
    from grafana_foundation_sdk.models import dashboard as models

__all__ = ["bargauge", "builders", "common", "models", "options", "prometheus", "stat", "table", "timeseries"]

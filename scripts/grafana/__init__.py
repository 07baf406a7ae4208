"""What `scripts/dashboards.py` makes Grafana's dashboards of."""

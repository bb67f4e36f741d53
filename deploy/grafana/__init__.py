"""Dashboards of Grafana, and how it finds them."""

"""Generated files: the CRD, install.yaml, the chart's values schema, the Grafana dashboard, and the reference."""

NOTICE = "# Made by `make generate`; do not edit.\n"
"""First line of generated YAML."""

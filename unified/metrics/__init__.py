"""Metrics: thin adapters over the field's own evaluators."""

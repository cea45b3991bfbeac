"""Metrics: how much two pictures differ."""

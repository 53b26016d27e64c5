"""Aggregation methods, one file each."""

"""Hostile files and messages for everything that is parsed, made of valid ones: ``python -m benchmarks.fuzz``."""

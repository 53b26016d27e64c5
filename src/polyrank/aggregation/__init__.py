"""Clients -> server: one file per method, two kernels, one registry."""

from polyrank.aggregation.method import Aggregate, Download, Kernel, Levels, Method, MethodInfo, Parts
from polyrank.aggregation.registry import METHODS, build, configured, options
from polyrank.aggregation.sums import Partial, Sums

__all__ = [
    "METHODS",
    "Aggregate",
    "Download",
    "Kernel",
    "Levels",
    "Method",
    "MethodInfo",
    "Partial",
    "Parts",
    "Sums",
    "build",
    "configured",
    "options",
]

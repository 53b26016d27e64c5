"""Clients -> server: one file per method, two kernels, one registry."""

from polyrank.aggregation.method import Accumulator, Aggregate, Download, Method, MethodInfo, Partial, Parts, Portable
from polyrank.aggregation.registry import METHODS, build

__all__ = [
    "METHODS",
    "Accumulator",
    "Aggregate",
    "Download",
    "Method",
    "MethodInfo",
    "Partial",
    "Parts",
    "Portable",
    "build",
]

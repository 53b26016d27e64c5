"""Runs that are killed, lack a disk, have clocks that jump, or go on for thousands of rounds: `benchmarks.faults`."""

"""Benchmarks: measurements and what they are compared with, as ratios or counts of one run."""

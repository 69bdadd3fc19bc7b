"""Recorded runs as test cases."""

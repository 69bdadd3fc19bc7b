"""Tests of what is installed, and by which commands."""

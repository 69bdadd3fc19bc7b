"""Recorded runs as test cases: de-identified, written to a folder, and replayed without a server."""

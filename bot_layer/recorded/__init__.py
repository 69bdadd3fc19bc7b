"""Recorded runs as test cases: made free of personal data, written to a folder, and replayed without a server."""

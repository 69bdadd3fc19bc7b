"""Deployment: ``rules/deployment.py`` makes the plan as a pure function; these modules read the server and carry out
steps."""

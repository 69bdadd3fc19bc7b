"""Accounts at Health Gorilla for clinicians and staff, and the locations they work at."""

"""Queries for a patient's documents that Health Gorilla passes on."""

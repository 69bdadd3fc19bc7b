"""Health Gorilla's REST API."""

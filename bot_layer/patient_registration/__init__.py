"""Registering patients in Health Gorilla's patient index."""

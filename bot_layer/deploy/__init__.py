"""Deployment: the plan is pure (``core/deployment.py``); here the server is read and a step is carried out."""

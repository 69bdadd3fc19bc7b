"""A Medplum look-alike that answers as the recorded server does."""

from bot_layer.sandbox.medplum.sandbox import MedplumSandbox

__all__ = ["MedplumSandbox"]

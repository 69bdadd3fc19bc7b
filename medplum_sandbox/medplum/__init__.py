"""A Medplum look-alike that answers as the recorded server does."""

from medplum_sandbox.medplum.sandbox import MedplumSandbox

__all__ = ["MedplumSandbox"]

"""A Health Gorilla look-alike on loopback; undocumented behavior of the real one is a switch."""

from medplum_sandbox.health_gorilla.network import FederatedCaller
from medplum_sandbox.health_gorilla.people import npi
from medplum_sandbox.health_gorilla.sandbox import HealthGorillaSandbox
from medplum_sandbox.health_gorilla.switches import Switches

__all__ = ["FederatedCaller", "HealthGorillaSandbox", "Switches", "npi"]

"""A Health Gorilla look-alike on loopback; what is unknown about the real one is a switch."""

from bot_layer.sandbox.health_gorilla.network import FederatedCaller
from bot_layer.sandbox.health_gorilla.people import npi
from bot_layer.sandbox.health_gorilla.sandbox import HealthGorillaSandbox
from bot_layer.sandbox.health_gorilla.switches import Switches

__all__ = ["FederatedCaller", "HealthGorillaSandbox", "Switches", "npi"]

"""The look-alike as one object: start it, call it, inspect its state."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from medplum_sandbox.faults import Faults
from medplum_sandbox.health_gorilla.app import Web
from medplum_sandbox.health_gorilla.directory import Directory
from medplum_sandbox.health_gorilla.fhir import PREFIX, FhirEndpoint
from medplum_sandbox.health_gorilla.oauth import Authority, Client
from medplum_sandbox.health_gorilla.outcomes import outcome
from medplum_sandbox.health_gorilla.roles import Roles
from medplum_sandbox.health_gorilla.state import State
from medplum_sandbox.health_gorilla.switches import Grant, Switches
from medplum_sandbox.health_gorilla.wire import Answer, Ask
from medplum_sandbox.json import Json
from medplum_sandbox.server import Server
from medplum_sandbox.shell import LookAlike, RequestLog, RequestRecord

SCOPES = (
    "user/*.*",
    "create_users",
    "patient360",
    "practitioner.read",
    "practitionerrole.read",
    "practitionerrole.write",
    "patient.read",
    "patient.write",
    "organization.read",
    "organization.write",
)
TAKEN_LOGIN = "taken.elsewhere"
TAKEN_EMAIL = "taken@elsewhere.example"


class HealthGorillaSandbox(LookAlike):
    """A Health Gorilla look-alike on loopback. It keeps its state in memory.

    One tenant and one subtenant belong to the client; another tenant belongs to another client, which uses
    ``taken_login`` and ``taken_email``.
    """

    taken_login = TAKEN_LOGIN
    taken_email = TAKEN_EMAIL

    def __init__(
        self,
        *,
        port: int = 0,
        switches: Switches | None = None,
        faults: Faults | None = None,
        clock: Callable[[], float] = time.time,
        scopes: tuple[str, ...] = SCOPES,
    ) -> None:
        self.switches = switches or Switches()
        self.faults = faults or Faults()
        self.client_id = secrets.token_hex(12)
        self.client_secret = secrets.token_urlsafe(48)
        self.client_uri = "https://clinic.example"
        self.user_login = "clinic.integration"
        self._log = RequestLog()
        web = Web(self._answer, faults=self.faults, switches=self.switches, log=self._log)
        self._server = Server(web.app, port=port)
        origin = self._server.base_url
        self.base_url = origin + PREFIX
        self.token_url = self.audience = f"{origin}/oauth/token"
        self._key: rsa.RSAPrivateKey | None = None
        self._key_lock = threading.Lock()
        client = Client(self.client_id, self.client_secret, self.client_uri, self.user_login, scopes, self._public_key)
        self.state = State(switches=self.switches, clock=clock)
        self._authority = Authority(client, audience=self.audience, switches=self.switches, clock=clock)
        self._fhir = FhirEndpoint(self.state, self._authority, origin=origin)
        self._roles = Roles(self.state)
        self._populate()

    def _populate(self) -> None:
        self.tenant_id = self.state.tenant_id
        self.subtenant_id = self.state.add_tenant("Rain Forest Practice", part_of=self.tenant_id)
        self.other_tenant_id = self.state.add_tenant("Somebody Else", own=False)
        names = ("Canopy Diagnostics", "Riverbank Laboratories", "Test Laboratory")
        self.labs = tuple(self.state.add_facility(name, lab=True) for name in names)
        self.sso_facility_id = self.state.add_facility("Single Sign-On", lab=False)
        self.state.reserve(login=self.user_login)
        self.state.reserve(login=TAKEN_LOGIN, email=TAKEN_EMAIL)

    @property
    def directory(self) -> Directory:
        """The NPI directory, to add clinicians to."""
        return self.state.directory

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests so far, token requests included."""
        return self._log.all()

    def clear_requests(self) -> None:
        """Resets the count."""
        self._log.clear()

    def expire_tokens(self) -> None:
        """Ends every token before its time."""
        self._authority.expire()

    def roles(self, tenant: str | None = None) -> list[Json]:
        """The accounts as whole PractitionerRoles, whatever clients are shown; of one tenant or of all."""
        with self.state.lock:
            accounts = self.state.accounts.values() if tenant is None else self.state.accounts_in(tenant)
            return [self._roles.render(account, whole=True) for account in accounts]

    def patients(self) -> list[Json]:
        """The registered patients."""
        with self.state.lock:
            return list(self.state.patients.values())

    def organizations(self) -> list[Json]:
        """Tenants, facilities and practice locations."""
        with self.state.lock:
            return list(self.state.organizations.values())

    def settings(self) -> dict[str, str]:
        """The project secrets with which a bot calls this look-alike, in the first way that its switches allow."""
        order: tuple[Grant, ...] = ("jwt-bearer", "jwt-bearer-key", "client-assertion", "client-secret")
        grant = next(grant for grant in order if grant in self.switches.grants)
        as_client = self.switches.subject == "client" or grant == "client-assertion"
        settings = {
            "HEALTH_GORILLA_BASE_URL": self.base_url,
            "HEALTH_GORILLA_TOKEN_URL": self.token_url,
            "HEALTH_GORILLA_AUDIENCE": self.audience,
            "HEALTH_GORILLA_CLIENT_ID": self.client_id,
            "HEALTH_GORILLA_CLIENT_SECRET": self.client_secret,
            "HEALTH_GORILLA_ISSUER": self.client_uri,
            "HEALTH_GORILLA_SUBJECT": self.user_login,
            "HEALTH_GORILLA_SCOPES": "user/*.* create_users",
            "HEALTH_GORILLA_GRANT": grant.removesuffix("-key"),
            "HEALTH_GORILLA_ALGORITHM": "HS256",
            "HEALTH_GORILLA_TENANT_ID": self.tenant_id,
            "HEALTH_GORILLA_SSO_FACILITY_ID": self.sso_facility_id,
            "HEALTH_GORILLA_INVITE": "false",
            "HEALTH_GORILLA_NOTIFY": "false",
        }
        if grant in ("jwt-bearer-key", "client-assertion"):
            settings |= {"HEALTH_GORILLA_ALGORITHM": "RS384", "HEALTH_GORILLA_PRIVATE_KEY": self.private_key}
        if as_client:
            settings |= {"HEALTH_GORILLA_ISSUER": self.client_id, "HEALTH_GORILLA_SUBJECT": self.client_id}
        return settings

    @property
    def private_key(self) -> str:
        """The PEM of the client's key, generated on first use."""
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return self._client_key().private_bytes(encoding, form, serialization.NoEncryption()).decode()

    def _public_key(self) -> str:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._client_key().public_key().public_bytes(serialization.Encoding.PEM, form).decode()

    def _client_key(self) -> rsa.RSAPrivateKey:
        with self._key_lock:  # several threads may be the first to need it
            if self._key is None:
                self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            return self._key

    def _answer(self, ask: Ask, url: str) -> Answer:
        match ask.method, ask.path:
            case "POST", "/oauth/token":
                return self._authority.token(ask)
            case "GET", "/oauth/info":
                return self._authority.info(ask)
            case "GET", "/oauth/cancel":
                return self._authority.cancel(ask)
            case _ if ask.path.startswith(PREFIX):
                return self._fhir.answer(ask, url)
            case _:
                return Answer(404, outcome("not-found", "Nothing here."))

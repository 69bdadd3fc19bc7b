"""Health Gorilla's words and settings: what its documents leave open is a setting here, never a guess in the code.

Seeds of the defaults: integrations that work today sign a JWT with the client secret (HS256, jwt-bearer); newer pages
of the portal describe a private key and ``iss`` = ``sub`` = client id. Each is a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bot_layer.settings import Reader, Setting

SYSTEM = "https://www.healthgorilla.com"
ADMINISTRATIVE_ROLE = "https://www.healthgorilla.com/administrative-role"
SECURITY_ROLE = "https://www.healthgorilla.com/security-role"
PRACTITIONER_ROLE = "http://hl7.org/fhir/practitioner-role"
LOGIN_EXTENSION = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/hg-practitioner-login"
LOGIN_EXTENSIONS = frozenset(
    {LOGIN_EXTENSION, "https://www.healthgorilla.com/fhir/StructureDefinition/hg-practitioner-login"}
)
PASSWORD_EXTENSION = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/hg-practitioner-password"  # noqa: S105  # a URL
SECURITY_ROLE_EXTENSION = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/practitionerrole-security-role"
SECURITY_ROLE_EXTENSIONS = frozenset(
    {
        SECURITY_ROLE_EXTENSION,
        "https://www.healthgorilla.com/fhir/R4/StructureDefinition/practitionalrole-security-role",
    }
)
USER_PROFILE = "https://healthgorilla.com/fhir/StructureDefinition/hg-user"
PRACTITIONER_PROFILES = (
    "http://hl7.org/fhir/us/core/StructureDefinition/us-core-practitioner",
    "https://healthgorilla.com/fhir/StructureDefinition/hg-practitioner",
)

GRANTS = ("jwt-bearer", "client-assertion", "client-secret")
ALGORITHMS = ("HS256", "RS256", "RS384", "ES256", "ES384")
_LOGIN = "HEALTH_GORILLA"
_SANDBOX = "https://sandbox.healthgorilla.com"
SETTINGS = (
    Setting("HEALTH_GORILLA_BASE_URL", "FHIR base URL", default=f"{_SANDBOX}/fhir/R4", login=_LOGIN),
    Setting("HEALTH_GORILLA_TOKEN_URL", "Token endpoint", default=f"{_SANDBOX}/oauth/token", login=_LOGIN),
    Setting("HEALTH_GORILLA_AUDIENCE", "The aud of the assertion; unset: the token endpoint", login=_LOGIN),
    Setting("HEALTH_GORILLA_CLIENT_ID", "The OAuth client", required=True, login=_LOGIN),
    Setting(
        "HEALTH_GORILLA_CLIENT_SECRET",
        "Its secret; signs the assertion with HS256",
        sensitive=True,
        required=True,
        instead="HEALTH_GORILLA_PRIVATE_KEY",
        login=_LOGIN,
    ),
    Setting(
        "HEALTH_GORILLA_ISSUER", "The iss of the assertion: the registered client URI; else the client id", login=_LOGIN
    ),
    Setting(
        "HEALTH_GORILLA_SUBJECT", "The sub of the assertion: the login to act as; else the client id", login=_LOGIN
    ),
    Setting("HEALTH_GORILLA_SCOPES", "The requested scopes", default="user/*.* create_users"),
    Setting(
        "HEALTH_GORILLA_GRANT",
        "jwt-bearer, client-assertion or client-secret",
        default="jwt-bearer",
        kind="choice",
        choices=GRANTS,
        login=_LOGIN,
    ),
    Setting(
        "HEALTH_GORILLA_ALGORITHM",
        "HS256, RS256, RS384, ES256 or ES384",
        default="HS256",
        kind="choice",
        choices=ALGORITHMS,
        login=_LOGIN,
    ),
    Setting("HEALTH_GORILLA_PRIVATE_KEY", "PEM of the key for RS and ES algorithms", sensitive=True, login=_LOGIN),
    Setting("HEALTH_GORILLA_KEY_ID", "The kid of that key, if one was registered", login=_LOGIN),
    Setting("HEALTH_GORILLA_TENANT_ID", "The tenant (t-...) in which people are enrolled", required=True, login=_LOGIN),
    Setting(
        "HEALTH_GORILLA_SUBTENANT_ID", "Another tenant of yours in which people are enrolled instead", login=_LOGIN
    ),
    Setting("HEALTH_GORILLA_SSO_FACILITY_ID", "The facility (f-...) of single sign-on; accounts get a PRN identifier"),
    Setting(
        "HEALTH_GORILLA_INVITE",
        "true: Health Gorilla sends new users an invitation by e-mail",
        default="false",
        kind="flag",
    ),
    Setting("HEALTH_GORILLA_NOTIFY", "true: new users get notifications by e-mail", default="false", kind="flag"),
    Setting(
        "HEALTH_GORILLA_SYNC_EMAIL",
        "true: accounts get an e-mail address, which can reset a password",
        default="false",
        kind="flag",
    ),
    Setting(
        "HEALTH_GORILLA_NPI_CHECK_DIGIT",
        "false: the check digit of NPIs is not checked; for a test system with made-up NPIs",
        default="true",
        kind="flag",
    ),
    Setting("HEALTH_GORILLA_PASSWORD", "A first password; used only if a call names this secret", sensitive=True),
)


@dataclass(frozen=True)
class HealthGorilla:
    """How to reach one tenant. Frozen and hashable: it is the key under which a token is kept."""

    base_url: str
    token_url: str
    audience: str
    client_id: str
    client_secret: str = field(repr=False)
    issuer: str
    subject: str
    scopes: str
    grant: str
    algorithm: str
    private_key: str = field(repr=False)
    key_id: str
    tenant_id: str
    home_tenant_id: str
    sso_facility_id: str
    invite: bool
    notify: bool
    sync_email: bool = False
    npi_check_digit: bool = True
    configured_tenant_id: str = ""

    @property
    def tenant(self) -> str:
        """The reference of the tenant in which people are enrolled."""
        return f"Organization/{self.tenant_id}"

    @property
    def is_foreign_tenant(self) -> bool:
        """True where people are enrolled in another tenant than the login's own."""
        return self.tenant_id != self.home_tenant_id

    @property
    def is_configured_tenant(self) -> bool:
        """True for the tenant whose id and login Medplum keeps; False for another that a call names."""
        return self.tenant_id == (self.configured_tenant_id or self.tenant_id)

    def in_tenant(self, tenant_id: str | None) -> HealthGorilla:
        """These settings for another tenant of the same login; themselves for none or the same.

        A facility for single sign-on belongs to one tenant, so another one goes without.
        """
        if not tenant_id or tenant_id == self.tenant_id:
            return self
        return replace(self, tenant_id=tenant_id, sso_facility_id="", configured_tenant_id=self.tenant_id)


def read(settings: Mapping[str, str]) -> HealthGorilla:
    """The settings as a value; raises one ConfigError that names all that is missing or wrong."""
    reader = Reader(SETTINGS, settings)

    def text(name: str) -> str:
        return reader.text(f"HEALTH_GORILLA_{name}")

    home = bare_id(text("TENANT_ID"))
    found = HealthGorilla(
        base_url=text("BASE_URL").rstrip("/"),
        token_url=text("TOKEN_URL"),
        audience=text("AUDIENCE") or text("TOKEN_URL"),
        client_id=text("CLIENT_ID"),
        client_secret=text("CLIENT_SECRET"),
        issuer=text("ISSUER") or text("CLIENT_ID"),
        subject=text("SUBJECT") or text("CLIENT_ID"),
        scopes=text("SCOPES"),
        grant=reader.choice("HEALTH_GORILLA_GRANT"),
        algorithm=reader.choice("HEALTH_GORILLA_ALGORITHM"),
        private_key=text("PRIVATE_KEY").replace("\\n", "\n"),
        key_id=text("KEY_ID"),
        tenant_id=bare_id(text("SUBTENANT_ID")) or home,
        home_tenant_id=home,
        sso_facility_id=bare_id(text("SSO_FACILITY_ID")),
        invite=reader.flag("HEALTH_GORILLA_INVITE"),
        notify=reader.flag("HEALTH_GORILLA_NOTIFY"),
        sync_email=reader.flag("HEALTH_GORILLA_SYNC_EMAIL"),
        npi_check_digit=reader.flag("HEALTH_GORILLA_NPI_CHECK_DIGIT"),
    )
    if found.grant and found.algorithm:
        signs_with_key = found.grant != "client-secret" and found.algorithm != "HS256"
        reader.require("HEALTH_GORILLA_PRIVATE_KEY" if signs_with_key else "HEALTH_GORILLA_CLIENT_SECRET")
    reader.complain()
    return found


def bare_id(value: str) -> str:
    """``t-...`` of ``Organization/t-...``."""
    return value.rpartition("/")[2]

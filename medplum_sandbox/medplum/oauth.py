"""Who calls: tokens for client credentials, and the actor behind a Bearer or Basic header.

https://www.medplum.com/docs/auth/methods/client-credentials
"""

from __future__ import annotations

import base64
import binascii
import hmac
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import parse_qsl

import jwt

from medplum_sandbox.json import Json
from medplum_sandbox.medplum import policy
from medplum_sandbox.medplum.binary import signed_attachments
from medplum_sandbox.medplum.calls import Answer, json_answer, parse_json
from medplum_sandbox.medplum.outcomes import unauthorized
from medplum_sandbox.medplum.search_request import Filter, SearchRequest
from medplum_sandbox.medplum.search_sql import Index, where
from medplum_sandbox.medplum.versioning import is_uuid
from medplum_sandbox.medplum.world import Actor, World

_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class _Refused(Exception):
    """Why no token is given, in the server's words."""

    reason: str


def issue_token(world: World, membership: Json, *, scope: str = "openid") -> str:
    """An access token with which a membership calls the API, with the claims that a real 5.1.13 writes.

    The server keeps a Login resource for each; here the membership represents it.
    """
    now = int(world.clock().timestamp())
    profile = membership["profile"]["reference"]
    address = f"{world.base_url}/"
    profile_id = profile.partition("/")[2]
    claims = {
        "aud": address,
        "iss": address,
        "login_id": membership["id"],  # by this claim Medplum's own clients know that they talk to a Medplum server
        "sub": profile_id,
        "username": profile_id,
        "scope": scope,
        "profile": profile,
        "jti": str(uuid.uuid4()),
        "iat": now,
        "nbf": now,
        "exp": now + world.settings.token_seconds,
    }
    if profile.startswith("ClientApplication/"):
        claims["client_id"] = profile_id
    return world.token_keys.sign(claims)


def token_answer(world: World, headers: Mapping[str, str], body: bytes) -> Answer:
    """``POST /oauth2/token``."""
    if not headers.get("content-type", "").startswith(_FORM):
        if "json" in headers.get("content-type", ""):
            parse_json(body)  # the server reads every JSON body before it looks for what it is
        return Answer(400, b"Unsupported content type", "text/html; charset=utf-8")
    form = dict(parse_qsl(body.decode(), keep_blank_values=True))
    try:
        granted = _grant(world, headers, form)
    except _Refused as refused:
        return json_answer(400, {"error": "invalid_request", "error_description": refused.reason})
    return json_answer(200, granted)


def authenticate(world: World, headers: Mapping[str, str]) -> Actor:
    """The actor behind an Authorization header, or 401. ``X-Medplum: extended`` asks for the whole ``meta``."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    extended = headers.get("x-medplum") == "extended"
    if scheme == "Bearer":
        membership, scope = _membership_of_token(world, credentials)
        limited = policy.scopes_of(scope) if world.settings.behavior.scopes_limit_clients else ()
        return replace(_actor(world, membership, extended=extended), scopes=limited)
    if scheme == "Basic":
        try:
            client_id, secret = _basic(credentials)
            return _actor(world, _membership_of_client(world, _client(world, client_id, secret)), extended=extended)
        except _Refused:
            raise unauthorized() from None
    raise unauthorized()


def me(world: World, actor: Actor) -> Json:
    """``GET /auth/me``: who the caller is and what the caller may do."""
    with world.lock:
        project = _resource(world, actor.project)
        profile = signed_attachments(world, actor.profile, world.store.get)
    membership = actor.membership
    menu = _MENU if actor.admin else _MENU[:1]
    kept = ("resourceType", "id", "user", "profile", "admin", "accessPolicy", "access")
    return {
        "project": {"resourceType": "Project", "id": project["id"], "name": project["name"], "strictMode": True},
        "membership": {key: membership[key] for key in kept if key in membership},
        "profile": profile,
        "config": {"resourceType": "UserConfiguration", "menu": menu},
        "accessPolicy": policy.policy_of(actor),
    }


def _grant(world: World, headers: Mapping[str, str], form: dict[str, str]) -> Json:
    grant_type = form.get("grant_type")
    if not grant_type:
        raise _Refused("Missing grant_type")
    if grant_type == "refresh_token":
        raise _Refused("Invalid refresh token")  # the look-alike issues none
    if grant_type not in ("client_credentials", "authorization_code"):
        raise _Refused("Unsupported grant_type")
    client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme == "Basic":
        client_id, secret = _basic(credentials)
    elif scheme:
        raise _Refused("Invalid authorization header")
    if grant_type == "authorization_code":
        raise _Refused("Invalid code" if form.get("code") else "Missing code")
    if not client_id:
        raise _Refused("Missing client_id")
    if not secret:
        raise _Refused("Missing client_secret")
    client = _client(world, client_id, secret)
    membership = _membership_of_client(world, client)
    project: str = client["meta"]["project"]
    scope = form.get("scope") or "openid"
    with world.lock:
        name = _resource(world, project)["name"]
    return {
        "token_type": "Bearer",
        "expires_in": world.settings.token_seconds,
        "scope": scope,
        "id_token": issue_token(world, membership, scope=scope),
        "access_token": issue_token(world, membership, scope=scope),
        "project": {"reference": f"Project/{project}", "display": name},
        "profile": membership["profile"],
        "smart_style_url": f"{world.base_url}/fhir/R4/.well-known/smart-styles.json",
        "need_patient_banner": False,
    }


def _basic(credentials: str) -> tuple[str, str]:
    try:
        client_id, _, secret = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise _Refused("Invalid client") from None
    return client_id, secret


def _client(world: World, client_id: str, secret: str) -> Json:
    with world.lock:
        stored = world.store.get(client_id) if is_uuid(client_id) else None
    if stored is None or stored.deleted or stored.type not in ("ClientApplication", "Bot"):
        raise _Refused("Invalid client")
    client = stored.resource()
    if not hmac.compare_digest(client.get("secret", "").encode(), secret.encode()):
        raise _Refused("Invalid secret")
    return client


def _membership_of_client(world: World, client: Json) -> Json:
    project: str = client["meta"]["project"]
    reference = f"{client['resourceType']}/{client['id']}"
    request = SearchRequest("ProjectMembership", (Filter("profile", reference),))
    with world.lock:
        found = where(request, Index(project, partial(world.store.key, project)))
        rows = world.store.select(found.sql, found.arguments, order="r.rid", limit=1, offset=0)
    if not rows:
        raise _Refused("Invalid client")
    return rows[0].resource()


def _membership_of_token(world: World, token: str) -> tuple[Json, str]:
    """(the membership of a token, its scope), or 401."""
    try:
        claims = world.token_keys.claims(token)
    except jwt.InvalidTokenError:
        raise unauthorized() from None
    if claims["exp"] <= world.clock().timestamp():  # the world's clock decides, not the machine's
        raise unauthorized()
    with world.lock:
        stored = world.store.get(claims["login_id"])
    if stored is None or stored.deleted:
        raise unauthorized()
    return stored.resource(), str(claims.get("scope", ""))


def _actor(world: World, membership: Json, *, extended: bool) -> Actor:
    project: str = membership["meta"]["project"]
    policies = [membership.get("accessPolicy"), *(access["policy"] for access in membership.get("access", ()))]
    with world.lock:
        profile = _resource(world, membership["profile"]["reference"].partition("/")[2])
        found = [_resource(world, p["reference"].partition("/")[2]) for p in policies if p]
    rules = [rule for one in found for rule in one.get("resource", ())]
    return Actor(
        project=project,
        membership=membership,
        profile=profile,
        admin=bool(membership.get("admin")),
        extended=extended,
        policy={**found[0], "resource": rules} if found else None,
    )


def _resource(world: World, id: str) -> Json:
    stored = world.store.get(id)
    if stored is None or stored.deleted:
        raise unauthorized()
    return stored.resource()


_FAVORITES = ("Patient", "Practitioner", "Organization", "ServiceRequest", "DiagnosticReport", "Questionnaire")
_FOR_ADMINS = {
    "Project": "/admin/project",
    "AccessPolicy": "/AccessPolicy",
    "Subscriptions": "/Subscription",
    "Batch": "/batch",
    "Config": "/admin/config",
}
_MENU: list[Json] = [
    {"title": "Favorites", "link": [{"name": name, "target": f"/{name}"} for name in _FAVORITES]},
    {"title": "Admin", "link": [{"name": name, "target": target} for name, target in _FOR_ADMINS.items()]},
]

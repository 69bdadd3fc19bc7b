"""A fresh project on a server that you administrate, for ``make live``; prints the variables that name it."""

from __future__ import annotations

import argparse
import shlex
import sys
import uuid

import requests

from bot_layer.fhir.json import Json

SECONDS = 60
_QUOTA = 2_000_000_000


def make(base_url: str, client_id: str, client_secret: str, *, quota: int = _QUOTA) -> Json:
    """The ids of a new project with the features ``bots`` and ``cron`` and a client that administers it.

    The login is a super administrator's. ``quota`` is in FHIR units a minute.
    """
    session = requests.Session()
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret}
    login = session.post(f"{base_url}/oauth2/token", data=form, timeout=SECONDS)
    login.raise_for_status()
    session.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
    name = f"Live {uuid.uuid4().hex[:8]}"
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "name", "valueString": name},
            {"name": "ownerEmail", "valueString": f"{uuid.uuid4().hex[:8]}@example.com"},
        ],
    }
    project = _json(session, "POST", f"{base_url}/fhir/R4/Project/$init", body)
    if project["resourceType"] == "Parameters":
        project = project["parameter"][0]["resource"]
    limits = [{"name": each, "valueInteger": quota} for each in ("userFhirQuota", "totalFhirQuota")]
    project |= {"features": ["bots", "cron"], "systemSetting": limits}
    _json(session, "PUT", f"{base_url}/fhir/R4/Project/{project['id']}", project)
    client = _first(session, f"{base_url}/fhir/R4/ClientApplication?_project={project['id']}")
    member = _first(session, f"{base_url}/fhir/R4/ProjectMembership?user=ClientApplication/{client['id']}")
    _json(session, "PUT", f"{base_url}/fhir/R4/ProjectMembership/{member['id']}", {**member, "admin": True})
    return {
        "MEDPLUM_BASE_URL": base_url,
        "MEDPLUM_CLIENT_ID": client["id"],
        "MEDPLUM_CLIENT_SECRET": client["secret"],
    }


def _json(session: requests.Session, method: str, url: str, body: Json | None = None) -> Json:
    answer = session.request(method, url, json=body, headers={"Content-Type": "application/fhir+json"}, timeout=SECONDS)
    if not answer.ok:
        raise SystemExit(f"{method} {url.split('?', maxsplit=1)[0]} answered {answer.status_code}: {answer.text[:300]}")
    found: Json = answer.json()
    return found


def _first(session: requests.Session, url: str) -> Json:
    found: Json = _json(session, "GET", url)["entry"][0]["resource"]
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.live.new_project", description=__doc__)
    parser.add_argument("base_url", help="e.g. http://127.0.0.1:8103")
    parser.add_argument("client_id", help="a super administrator's client")
    parser.add_argument("client_secret")
    given = parser.parse_args()
    made = make(given.base_url.rstrip("/"), given.client_id, given.client_secret)
    sys.stdout.write("".join(f"export {name}={shlex.quote(value)}\n" for name, value in made.items()))


if __name__ == "__main__":
    main()

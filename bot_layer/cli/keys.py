"""``medplum-bots keys new``: creates a key pair for a partner that needs one, with the public key as a JWKS."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from bot_layer.errors import InputError

app = typer.Typer()
keys = typer.Typer(help="Key pairs for logins by private_key_jwt.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.command("new")
def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the two files are written.")],
    algorithm: Annotated[str, typer.Option(help="ES384 or RS384, the two that SMART names.")] = "ES384",
) -> None:
    """Write private-key.pem (readable only by this user) and jwks.json, which you give to the partner.

    SMART App Launch, client authentication by asymmetric keys:
    https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html
    """
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if algorithm == "ES384":
        key = ec.generate_private_key(ec.SECP384R1())
        public = json.loads(ECAlgorithm.to_jwk(key.public_key()))
    elif algorithm == "RS384":
        key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
        public = json.loads(RSAAlgorithm.to_jwk(key.public_key()))
    else:
        raise InputError("Choose an algorithm: ES384 or RS384.", code="unknown-algorithm")
    folder.mkdir(parents=True, exist_ok=True)
    private_path, public_path = folder / "private-key.pem", folder / "jwks.json"
    for path in (private_path, public_path):
        if path.exists():
            raise InputError(f"{path} already exists: it may be a key in use.", code="file-exists")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(private_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(pem)
    key_id = secrets.token_hex(8)
    named = {"kid": key_id, "alg": algorithm, "use": "sig", "key_ops": ["verify"]}
    public_path.write_text(json.dumps({"keys": [public | named]}, indent=2) + "\n", encoding="utf-8")
    typer.echo(f"Wrote {private_path} and {public_path}. The key id is {key_id}.")

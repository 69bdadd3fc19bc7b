"""Keys made for one test."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from medplum_sandbox.practice_fusion import PracticeFusionSandbox


def register(source: PracticeFusionSandbox, kind: str = "ES384") -> dict[str, str]:
    """The settings of a client whose key the source knows from now on."""
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if kind == "ES384":
        key = ec.generate_private_key(ec.SECP384R1())
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    source.register_public_key(public.decode(), "key-1", kind)
    return {"PF_PRIVATE_KEY": pem, "PF_KEY_ID": "key-1"}

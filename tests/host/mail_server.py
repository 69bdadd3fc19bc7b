"""A mail server with TLS for tests, with its own key and certificate."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

import pytest

from tests.certificates import self_signed

NAME = "mail.clinic.example"


class MailServer:
    """A mail server that takes messages, with TLS from the beginning (smtps), by STARTTLS (smtp) or never.

    Its name is the DNS' of the test; its certificate is trusted. https://www.rfc-editor.org/rfc/rfc5321
    """

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        encrypts: Literal["smtps", "smtp", "never"],
        name: str = NAME,
    ) -> None:
        self.encrypts = encrypts
        self.lines: list[tuple[bool, str]] = []  # whether it came encrypted, and what
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = self_signed(folder, name)
        self.context.load_cert_chain(certificate)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *rest, **more: real("127.0.0.1" if host == NAME else host, *rest, **more),
        )
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def heard(self) -> str:
        """All received messages."""
        return "\n".join(line for _, line in self.lines)

    @property
    def in_clear(self) -> list[str]:
        """What could be read on the network."""
        return [line for encrypted, line in self.lines if not encrypted]

    def settings(self, url: str) -> dict[str, str]:
        """The settings with which a host sends mail here."""
        return {
            "BOT_ALERT_EMAIL": "ops@clinic.example, it@clinic.example",
            "BOT_ALERT_FROM": "bots@clinic.example",
            "BOT_ALERT_SMTP": f"{url}:{self._listening.getsockname()[1]}",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):  # also a client that does not like the certificate
            connection, _ = self._listening.accept()
            connection.settimeout(60)
            if self.encrypts == "smtps":
                connection = self.context.wrap_socket(connection, server_side=True)
            self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        file = connection.makefile("rb")
        while line := file.readline().decode().rstrip("\r\n"):
            self.lines.append((isinstance(connection, ssl.SSLSocket), line))
            word = line.split(" ")[0].upper()
            if word == "STARTTLS":
                connection.sendall(b"220 go on\r\n")
                connection = self.context.wrap_socket(connection, server_side=True)
                file = connection.makefile("rb")
            elif word == "DATA":
                connection.sendall(b"354 go on\r\n")
                self.lines += [
                    (isinstance(connection, ssl.SSLSocket), part.decode()) for part in iter(file.readline, b".\r\n")
                ]
                connection.sendall(b"250 ok\r\n")
            elif word == "EHLO":
                more = b"250-STARTTLS\r\n" if self.encrypts == "smtp" else b""
                connection.sendall(b"250-mail\r\n" + more + b"250 AUTH PLAIN\r\n")
            else:
                connection.sendall({"QUIT": b"221 bye\r\n", "AUTH": b"235 ok\r\n"}.get(word, b"250 ok\r\n"))

"""Authentication by a token, and TLS. Both can be reloaded while echo runs."""

import re
import ssl
from pathlib import Path

from echo.settings import Settings

OPEN = {"/healthz", "/readyz"}  # probes have no token


class Auth:
    """The token and the certificate. Raises OSError or ValueError if a file is wrong."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.secret = ""
        self.context = None
        if settings.tls_cert:
            self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.load()

    def load(self) -> None:
        """Load the files. If one is wrong, nothing changes. Raises OSError or ValueError."""
        token, cert, key = self.settings.token_file, self.settings.tls_cert, self.settings.tls_key
        secret = read_token(token) if token else ""
        if self.context and cert and key:
            try:
                # Try them out first: a failure would leave half of the pair loaded.
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key)
                self.context.load_cert_chain(cert, key)
            except OSError as error:  # SSLError is an OSError without a file name
                raise ValueError(f"{cert} and {key} are not a certificate and its key: {error.strerror}") from None
        self.secret = secret

    def admits(self, path: str, authorization: str) -> bool:
        """Return whether the path is open or the token is right (RFC 6750, 2.1), in constant time."""
        if not self.secret or path in OPEN:
            return True
        import hmac  # here, because few installations have a token

        scheme, _, shown = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), self.secret.encode())


def read_token(path: Path) -> str:
    """Return the token in a file. Raises OSError or ValueError."""
    token = path.read_bytes().strip().decode("ascii", "replace")
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]{1,4096}=*", token):
        raise ValueError(f"{path} holds no token: one line of letters, digits and ._~+/-")
    return token

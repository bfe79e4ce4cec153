"""Where and how a native destination posts. It imports next to nothing, unlike what it is read from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True, repr=False)
class Endpoint:
    """Where to post to, and how. It may hold secrets: never print it.

    Args:
        url: whole address, encoded.
        headers: name to value.
        timeout: of one request, seconds.
        gzip: whether bodies are compressed.
        verify: whether the server's certificate is checked.
        authorities: file or folder of certificates to trust.
        certificate: file of a client certificate; empty for none.
        certificate_key: file of its key; empty where that is the same.
        proxy: address of the proxy to go through; empty for none.
        secrets: texts that no answer may show.
    """

    url: str
    headers: Mapping[str, str]
    timeout: float
    gzip: bool
    verify: bool
    authorities: str
    certificate: str
    certificate_key: str
    proxy: str
    secrets: frozenset[str]

    def to_json(self) -> str:
        """All of it, secrets included, for another process of this relay."""
        return json.dumps({**asdict(self), "secrets": sorted(self.secrets)})

    @classmethod
    def from_json(cls, text: str) -> Endpoint:
        """What :meth:`to_json` has written.

        Args:
            text: JSON.
        """
        fields = json.loads(text)
        return cls(**{**fields, "secrets": frozenset(fields["secrets"])})

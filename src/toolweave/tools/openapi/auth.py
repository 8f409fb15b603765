"""Keys of web APIs: what the user has, and where a document wants it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from toolweave.tools.openapi.document import resolve


class CredentialKind(StrEnum):
    """How a key is sent where the document does not say."""

    BEARER = "bearer"
    BASIC = "basic"
    API_KEY = "api_key"


@dataclass(frozen=True, slots=True)
class Credential:
    """A user's key for one API. `secret` is the key, or `name:password` for Basic; it is never shown."""

    secret: str = field(repr=False)
    kind: CredentialKind = CredentialKind.BEARER

    @classmethod
    def from_plugin(cls, auth: Any) -> Credential | None:
        """Read AgentFabric's `{type, apikey, apikey_type}`; None without a key."""
        if not isinstance(auth, Mapping) or not auth.get("apikey"):
            return None
        if str(auth.get("type") or "API Key").casefold() in ("none", "无"):
            return None
        kind = {"basic": CredentialKind.BASIC, "custom": CredentialKind.API_KEY}.get(
            str(auth.get("apikey_type")).casefold(), CredentialKind.BEARER
        )
        return cls(str(auth["apikey"]), kind)

    def basic(self) -> str:
        """Return the Authorization header of Basic."""
        # A secret without a colon has been encoded already, which is how AgentFabric takes it.
        text = b64encode(self.secret.encode()).decode() if ":" in self.secret else self.secret
        return f"Basic {text}"


@dataclass(frozen=True, slots=True)
class Placement:
    """What a credential adds to a request."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cookies: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def placement(credential: Credential | None, document: Mapping[str, Any], operation: Mapping[str, Any]) -> Placement:
    """Return where the credential goes in an operation, by the first of its security schemes that is understood."""
    if credential is None:
        return Placement()
    schemes = document.get("securityDefinitions") or (document.get("components") or {}).get("securitySchemes") or {}
    wanted = operation.get("security", document.get("security"))
    if wanted == []:
        return Placement()
    names = [name for need in wanted or () if isinstance(need, Mapping) for name in need]
    for name in names or list(schemes)[:1]:
        scheme = resolve(document, schemes.get(name))
        if isinstance(scheme, Mapping) and (found := _by_scheme(credential, scheme)):
            return found
    return _by_kind(credential)


def _by_scheme(credential: Credential, scheme: Mapping[str, Any]) -> Placement | None:
    match str(scheme.get("type")).lower(), str(scheme.get("scheme")).lower():
        case ("basic", _) | ("http", "basic"):
            return Placement(headers=(("Authorization", credential.basic()),))
        case ("http", "bearer") | ("oauth2" | "openidconnect", _):
            return Placement(headers=(("Authorization", f"Bearer {credential.secret}"),))
        case ("apikey", _):
            name = str(scheme.get("name") or "")
            if name.lower() == "authorization":
                return _by_kind(credential)
            pair = ((name, credential.secret),)
            match scheme.get("in"):
                case "header":
                    return Placement(headers=pair)
                case "query":
                    return Placement(query=pair)
                case "cookie":
                    return Placement(cookies=pair)
    return None


def _by_kind(credential: Credential) -> Placement:
    match credential.kind:
        case CredentialKind.BASIC:
            value = credential.basic()
        case CredentialKind.API_KEY:
            value = credential.secret
        case _:
            value = f"Bearer {credential.secret}"
    return Placement(headers=(("Authorization", value),))

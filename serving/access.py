"""Who may call what: API keys with roles, and client certificates.

A key is ``vcl_ID_SECRET``; the file holds the SHA-256 of it alone. That is enough, because a secret
has 256 random bits, and it lets every call be checked in microseconds. The file is read again when
it changes, so keys are added and revoked without a restart.
"""

import enum
import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from serving.calls import Context
from vicinal.artifact import storage_guard
from vicinal.errors import InvalidConfigError, NotFoundError, PermissionDeniedError, UnauthenticatedError

logger = logging.getLogger(__name__)
_PREFIX = "vcl"
_LOOK_S = 1.0


class Role(enum.IntEnum):
    """What a caller may do; each role may do all that those before it may."""

    READER = 1
    """Search, embed, classify, and read snapshots, items and labels."""
    LABELER = 2
    """Change labels too."""
    WRITER = 3
    """Upsert and delete items too."""
    ADMIN = 4
    """Activate snapshots, and start and cancel jobs too."""


_READING = (
    "Get",
    "List",
    "Search",
    "BatchSearch",
    "StreamSearch",
    "Embed",
    "Classify",
    "Evaluate",
    "Suggest",
    "Export",
)
_WRITING = frozenset({"UpsertItems", "DeleteItems"})


def role_needed(method: str) -> Role:
    """Returns the least role that may call an RPC; what is unknown needs an admin.

    Args:
        method: full name, such as ``/vicinal.v1.SearchService/Search``.
    """
    service, _, name = method.rpartition("/")
    if name.startswith(_READING):
        return Role.READER
    if name in _WRITING:
        return Role.WRITER
    return Role.LABELER if service.endswith((".LabelService", ".FewshotService")) else Role.ADMIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One entry of the file of keys."""

    key_id: str
    """Names the key in logs and to revoke it; 8 hexadecimal digits."""
    role: str
    """``reader``, ``labeler``, ``writer`` or ``admin``."""
    sha256: str
    """Of the whole key, 64 hexadecimal digits."""
    created_at: str
    """ISO 8601, UTC."""
    note: str = ""
    """Whose it is."""
    expires_at: str = ""
    """ISO 8601 with zone; empty never."""

    @property
    def expiry_s(self) -> float:
        """Unix time from which the key is refused."""
        return datetime.fromisoformat(self.expires_at).timestamp() if self.expires_at else float("inf")


@dataclass(slots=True, kw_only=True)
class KeyFile:
    """The file of keys.

    Args:
        path: of the file.
    """

    path: Path
    _seen: tuple[int, int, int] | None = None
    _looked_s: float = -1e9
    _by_id: dict[str, Key] = field(default_factory=dict)

    def read(self) -> dict[str, Key]:
        """Returns the keys by id, reading the file if it has changed.

        Raises:
            InvalidConfigError: the file cannot be read or is damaged.
        """
        try:
            status = self.path.stat()
            raw = json.loads(self.path.read_text(encoding="utf-8"))
            keys = [Key(**entry) for entry in raw["keys"]]
            for key in keys:
                _ = Role[key.role.upper()], key.expiry_s
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidConfigError(
                f"cannot read the keys in {self.path}: {error}; make one with: vicinal keys add"
            ) from error
        self._seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        self._by_id = {key.key_id: key for key in keys}
        return self._by_id

    def current(self) -> dict[str, Key]:
        """Returns the keys by id; looks at the file at most once a second, and keeps the old if it is damaged."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            try:
                status = os.stat(self.path)  # noqa: PTH116 - on the way of every call
                if (status.st_mtime_ns, status.st_ino, status.st_size) != self._seen:
                    self.read()
            except (OSError, InvalidConfigError) as error:
                logger.error("the keys stay as they were: %s", error)  # noqa: TRY400 - said
        return self._by_id

    def add(self, role: str, *, note: str = "", expires_at: str = "") -> str:
        """Makes a key.

        Returns:
            The key itself, which is told this once.

        Raises:
            InvalidConfigError: the file is damaged, or the role or date is unknown.
            StorageError: the file cannot be written.
        """
        keys = self.read() if self.path.exists() else {}
        key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        text = f"{_PREFIX}_{key_id}_{secret}"
        key = Key(
            key_id=key_id,
            role=role,
            sha256=_digest(text),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            note=note,
            expires_at=expires_at,
        )
        try:
            _ = Role[role.upper()], key.expiry_s
        except (KeyError, ValueError) as error:
            raise InvalidConfigError(f"role {role!r} or date {expires_at!r} is unknown here") from error
        self._write({**keys, key_id: key})
        return text

    def revoke(self, key_id: str) -> None:
        """Removes a key; servers that run notice within a second.

        Raises:
            NotFoundError: no such key.
        """
        keys = self.read()
        if key_id not in keys:
            raise NotFoundError(f"no key {key_id!r} in {self.path}; list them with: vicinal keys list")
        self._write({name: key for name, key in keys.items() if name != key_id})

    def _write(self, keys: dict[str, Key]) -> None:
        text = json.dumps({"format_version": 1, "keys": [asdict(key) for key in keys.values()]}, indent=1)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with storage_guard(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.path)


class KeyGate:
    """Lets callers in by their key.

    Args:
        keys: the file of keys.

    Raises:
        InvalidConfigError: the file cannot be read.
    """

    def __init__(self, keys: KeyFile) -> None:
        self._keys = keys
        keys.read()

    def admit(self, method: str, context: Context) -> str:
        """Returns the id of the key of a call.

        Raises:
            UnauthenticatedError: no key, or one that is unknown or has expired.
            PermissionDeniedError: the key's role does not allow the RPC.
        """
        text = _bearer(context)
        if not text:
            raise UnauthenticatedError("this server wants an API key; send: authorization: Bearer KEY")
        parts = text.split("_", 2)
        key = self._keys.current().get(parts[1]) if len(parts) == 3 else None
        known = key is not None and hmac.compare_digest(key.sha256, _digest(text))
        if key is None or not known or time.time() >= key.expiry_s:
            raise UnauthenticatedError("the API key is unknown, revoked or expired; ask the operator for one")
        check_role(Role[key.role.upper()], method, who=f"key {key.key_id}")
        return key.key_id


class CertificateGate:
    """Lets callers in by their certificate, which TLS has checked.

    Args:
        role: what they may do.
    """

    def __init__(self, role: Role) -> None:
        self._role = role

    def admit(self, method: str, context: Context) -> str:
        """Returns the common name of the caller's certificate.

        Raises:
            PermissionDeniedError: the role does not allow the RPC.
        """
        names = list(context.auth_context().get("x509_common_name") or [b"certificate"])
        name = names[0].decode("utf-8", "replace")
        check_role(self._role, method, who=f"certificate {name!r}")
        return name


def check_role(role: Role, method: str, *, who: str) -> None:
    """Refuses a call that a role does not allow.

    Raises:
        PermissionDeniedError: it does not.
    """
    needed = role_needed(method)
    if role < needed:
        raise PermissionDeniedError(
            f"{method.rpartition('/')[2]} needs the role {needed.name.lower()}, {who} has {role.name.lower()}"
        )


def _bearer(context: Context) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization" and isinstance(value, str) and value[:7].lower() == "bearer ":
            return value[7:].strip()
    return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

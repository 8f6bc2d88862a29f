"""Keys of tenants: made, and taken out of a configuration again."""

import hashlib
import os
import re
import secrets
import tempfile
from pathlib import Path

from infer_daemon.settings.load import parse
from infer_daemon.settings.schema import Settings

HASH_DIGITS_MIN = 8


class Unset(dict[str, str]):
    """An environment in which what is not set has the hash of a key that nobody has: a leaked key
    must be revocable wherever the file is, also without the service's variables."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return "sha256:" + hashlib.sha256(secrets.token_bytes(32)).hexdigest()


class KeyProblem(Exception):
    """There is not exactly one such key, or the file cannot be changed safely."""


def new() -> str:
    """A key that nobody can guess: 256 random bits."""
    return f"sk-{secrets.token_urlsafe(32)}"


def revoke(path: Path, settings: Settings, wanted: str) -> str:
    """Take one hash out of the file and leave everything else as it is, comments too.

    Args:
        settings: what the file says now.
        wanted: the first digits of the hash, at least eight.

    Returns: the tenant whose key it was.

    Raises:
        KeyProblem: see there; the file is as it was.
    """
    digits = wanted.removeprefix("sha256:").lower()
    if len(digits) < HASH_DIGITS_MIN:
        raise KeyProblem(f"at least the first {HASH_DIGITS_MIN} digits of the hash are needed")
    found = [
        (name, digest)
        for name, tenant in settings.tenants.items()
        for digest in tenant.key_hashes
        if digest.removeprefix("sha256:").startswith(digits)
    ]
    if len(found) != 1:
        raise KeyProblem(f"{len(found) or 'no'} keys have a hash that begins with {digits}")
    [(name, digest)] = found
    text = path.read_text(encoding="utf-8")
    changed = re.sub(rf"""["']{digest}["']\s*,?[ ]*""", "", text)
    left = parse(changed, source=str(path), environ=Unset(os.environ)).tenants[name].key_hashes
    if digest in left or len(left) != len(settings.tenants[name].key_hashes) - 1:
        raise KeyProblem(f"the hash is not written out in {path}; take it out by hand")
    _replace(path, changed)
    return name


def _replace(path: Path, text: str) -> None:
    """All or nothing: a daemon that starts meanwhile reads the old file or the new one. The new one
    is as readable as the old one was."""
    path = path.resolve()
    was = path.stat()
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), was.st_mode & 0o777)
            os.fchown(file.fileno(), was.st_uid, was.st_gid)
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise

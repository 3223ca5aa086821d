"""Key pairs and certificates for a test, by ssh-keygen."""

from __future__ import annotations

import subprocess
from pathlib import Path

import asyncssh


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    """Make a key pair."""
    assert keygen("-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", path) == 0
    return path


def sign(authority: Path, key: Path, name: str, *words: str) -> Path:
    """Have an authority certify a public key for a name; return the certificate."""
    assert keygen("-q", "-s", authority, "-I", "test", "-n", name, *words, f"{key}.pub") == 0
    return Path(f"{key}-cert.pub")


def public(key: Path) -> str:
    """Return a key's public half, a line of text."""
    return Path(f"{key}.pub").read_text()


def fingerprint(key: Path) -> str:
    """Return a key's fingerprint."""
    return asyncssh.import_public_key(public(key)).get_fingerprint()


def keygen(*words: str | Path) -> int:
    """Run ssh-keygen; return its status."""
    ran = subprocess.run(["ssh-keygen", *words], stdout=subprocess.DEVNULL, check=False, timeout=20)
    return ran.returncode

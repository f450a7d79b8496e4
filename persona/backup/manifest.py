"""What a backup consists of: the names of its parts, and the manifest that says whether they are whole. Nothing is restored here."""

import hashlib
import json
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from persona.errors import InvalidInput, NotFound
from persona.intake.claim import sha256_of

MANIFEST, SEAL = "manifest.json", "manifest.sha256"
COLLECTIONS, DROPS = "mongodb", "drops"
HISTORY, SETTINGS = "history.json", "settings.json"
FORMAT = 1


class Part(BaseModel):
    """One file of a backup."""

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """Everything that a backup holds, with what made it."""

    format: int
    at: datetime
    """What it holds is as of then, UTC."""
    versions: dict[str, str]
    """Of Persona, of MongoDB, of the code of each asset."""
    collections: dict[str, int]
    """Documents by collection."""
    drops: int
    parts: dict[str, Part]
    """By path within the backup."""

    def write(self, folder: Path) -> None:
        """Put the manifest, and its own hash, beside the parts."""
        content = self.model_dump_json(indent=2).encode()
        (folder / MANIFEST).write_bytes(content)
        (folder / SEAL).write_text(hashlib.sha256(content).hexdigest() + "\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the backup in this folder. Raises `NotFound` where there is none, `InvalidInput` where it is damaged."""
    if not (folder / MANIFEST).is_file():
        raise NotFound(f"there is no backup in {folder}", hint="`persona backup DIR` makes one.")
    content = (folder / MANIFEST).read_bytes()
    try:
        sealed = (folder / SEAL).read_text().strip() == hashlib.sha256(content).hexdigest()
        if sealed and (found := json.loads(content)["format"]) != FORMAT:
            raise InvalidInput(
                f"the backup has format {found}, this version reads {FORMAT}", hint="Restore it with the version that made it."
            )
        manifest = Manifest.model_validate_json(content)
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        sealed = False
    if not sealed:
        raise _damaged(MANIFEST)
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare every part with the manifest. Raises `InvalidInput`, naming the first that is missing or differs."""
    for name, part in manifest.parts.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != part.bytes or sha256_of(file) != part.sha256:
            raise _damaged(name)


def _damaged(name: str) -> InvalidInput:
    return InvalidInput(f"the backup is damaged: {name} is missing or not as it was written", hint="Nothing was changed.")

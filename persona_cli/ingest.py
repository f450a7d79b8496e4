"""`persona ingest`: hand files to the watched folder, each whole or not at all."""

import filecmp
import hashlib
import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from persona.errors import NotFound
from persona.settings import Settings
from persona_cli.options import Json
from persona_cli.output import emit, steps


def ingest(paths: Annotated[list[Path], typer.Argument(help="Files, or folders of files.")], json: Json = False) -> None:
    """Copy drops into the watched folder; the sensor, or `persona materialize`, takes them in."""
    if missing := [str(path) for path in paths if not path.exists()]:
        raise NotFound(f"no such file or folder: {', '.join(missing)}")
    folder = Settings().drops
    folder.mkdir(parents=True, exist_ok=True)
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path]) if file.is_file()]
    names: list[str] = []
    with steps() as step:
        for done, file in enumerate(files, 1):
            unfinished = folder / f".{file.name}.{os.getpid()}.tmp"
            try:
                shutil.copyfile(file, unfinished)
                target = _free_name(folder, file)
                os.replace(unfinished, target)
                names.append(target.name)
            finally:
                unfinished.unlink(missing_ok=True)
            step.count("files", done)
    emit({"folder": str(folder), "files": names}, f"{len(files)} files into {folder}")


def _free_name(folder: Path, file: Path) -> Path:
    """The file's own name, unless another file of that name is there: then with eight digits of its content's hash."""
    target = folder / file.name
    if not target.exists() or filecmp.cmp(file, target, shallow=False):
        return target
    stem, dot, suffixes = file.name.partition(".")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    return folder / f"{stem}-{digest}{dot}{suffixes}"

"""`persona erase`: a person out of every store and drop, with the proof of it."""

import uuid
from typing import Annotated

import typer
from rich.markup import escape

from persona.privacy import erasure
from persona.privacy import scrub as scrubbing
from persona.settings import Settings
from persona.stores.opening import open_stores
from persona_cli.options import Json
from persona_cli.output import emit, steps


def erase(
    user_id: Annotated[str, typer.Argument(help="Who is to be erased.")],
    scrub: Annotated[
        bool, typer.Option("--scrub", help="Also rewrite the local servers' files, so that no byte is left; services restart.")
    ] = False,
    json: Json = False,
) -> None:
    """Erase a person everywhere and prove it. What they do from now on is welcome; older drops do not bring them back."""
    settings = Settings()
    with steps() as step:
        with open_stores(settings) as stores:
            proof = erasure.erase(user_id, settings, stores, run_id=f"erase-{uuid.uuid4()}", progress=step.now)
        if scrub and erasure.is_complete(proof):
            proof = scrubbing.scrub(user_id, proof, settings, progress=step.now)
    emit(proof, _text(proof))
    if not erasure.is_complete(proof):
        raise typer.Exit(1)


def _text(proof: erasure.Proof) -> str:
    lines = [f"{name:<12} {proof['found'].get(name, 0):>8,} found {left:>6,} left" for name, left in proof["left"].items()]
    lines.append(f"{len(proof['drops'])} claimed drops rewritten, {len(proof['sources'])} files of the watched folders")
    lines += [f"  {residue['where']}: {residue['removed_by']}" for residue in proof["residue"]]
    lines += [f"  backup {backup['path']}: older than this; restoring it erases the person again" for backup in proof["backups"]]
    if proof["mentions_in_all"]:
        lines.append(f"{proof['mentions_in_all']:,} records or catalog entries of others hold the id in their words")
    if "scrubbed" in proof:
        found_in = proof["scrubbed"]["found_in"]
        lines.append(f"scrubbed: the id stands in {len(found_in)} files under PERSONA_HOME")
        lines += [f"  {path}" for path in found_in]
    lines.append(f"proof {proof['erasure']}")
    return escape("\n".join(lines))

"""Which files of a watched folder are drops, and that a claimed copy is whole or is not there."""

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from persona.errors import StoreRefused
from persona.intake import claim as claiming
from persona.intake.claim import WatchedFile, claim, settled_files


def watched(folder: Path, **options: Any) -> list[WatchedFile]:
    return list(settled_files(folder, settle_seconds=0, **options))


def names(folder: Path, **options: Any) -> list[str]:
    return [file.path.name for file in watched(folder, **options)]


def test_regular_files_by_name_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.json", "a.jsonl.gz", "c.csv", ".hidden", "d.json.tmp", "e.part", "f.partial", "g.crdownload", "h.swp"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    assert names(tmp_path) == ["a.jsonl.gz", "b.json", "c.csv"]


def test_a_folder_that_is_not_there_holds_no_files(tmp_path: Path) -> None:
    assert names(tmp_path / "nowhere") == []


def test_links_that_lead_out_of_the_folder_and_broken_ones_are_left_alone(tmp_path: Path) -> None:
    folder, secret = tmp_path / "watched", tmp_path / "secret.json"
    (folder / "inner").mkdir(parents=True)
    secret.write_text("{}")
    (folder / "inner" / "inside.json").write_text("{}")
    (folder / "out.json").symlink_to(secret)
    (folder / "up.json").symlink_to(Path("..") / "secret.json")
    (folder / "broken.json").symlink_to(folder / "gone.json")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    (folder / "in.json").symlink_to(folder / "inner" / "inside.json")
    (tmp_path / "alias").symlink_to(folder)
    assert names(folder) == ["in.json"] == names(tmp_path / "alias")


def test_a_file_settles_when_nobody_has_touched_it_however_old_it_claims_to_be(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("{}")
    os.utime(file, (0, 0))
    assert list(settled_files(tmp_path, settle_seconds=3)) == []
    assert len(list(settled_files(tmp_path, settle_seconds=3, now=time.time() + 4))) == 1


def test_a_copy_is_named_by_its_content_and_outlives_the_source(tmp_path: Path) -> None:
    source, copies = tmp_path / "a.json", tmp_path / "home" / "drops"
    source.write_bytes(b"x" * 3_000_000)
    [file] = watched(tmp_path)
    claimed = claim(file, copies)
    source.unlink()
    assert claimed is not None
    assert claimed.sha256 == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert (claimed.name, claimed.size) == ("a.json", 3_000_000)
    assert claimed.path == copies / claimed.sha256
    assert claimed.path.read_bytes() == b"x" * 3_000_000


def test_a_file_that_changed_since_it_was_seen_is_left_for_the_next_time(tmp_path: Path) -> None:
    source, copies = tmp_path / "a.json", tmp_path / "copies"
    source.write_text("{}")
    [file] = watched(tmp_path)
    source.write_text("{} ")
    assert claim(file, copies) is None
    assert list(copies.iterdir()) == []
    [file] = watched(tmp_path)
    source.unlink()
    assert claim(file, copies) is None


def test_a_file_that_changes_while_it_is_copied_is_left_for_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, copies = tmp_path / "a.json", tmp_path / "copies"
    source.write_bytes(b"x" * 100)
    monkeypatch.setattr(claiming, "COPY_BYTES", 10)

    class Meddling:
        def update(self, chunk: bytes) -> None:
            source.write_bytes(b"y" * 100)

        def hexdigest(self) -> str:
            return "0" * 64

    [file] = watched(tmp_path)
    monkeypatch.setattr(hashlib, "sha256", Meddling)
    assert claim(file, copies) is None
    assert list(copies.iterdir()) == []


def test_a_full_disk_is_no_fault_of_the_drop_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("{}")
    copies = tmp_path / "copies"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    [file] = watched(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreRefused, match="No space left"):
        claim(file, copies)
    assert list(copies.iterdir()) == []


@pytest.fixture
def ordinary_user() -> Iterator[Path]:
    """A folder of ours, while we are not root: root may read everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if os.geteuid() != 0:
            yield folder
            return
        folder.chmod(0o777)
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)


def test_a_file_that_may_not_be_read_is_left_for_the_next_time(ordinary_user: Path) -> None:
    source, copies = ordinary_user / "a.json", ordinary_user / "copies"
    source.write_text("{}")
    source.chmod(0o000)
    [file] = watched(ordinary_user)
    assert claim(file, copies) is None
    source.chmod(0o600)
    assert claim(watched(ordinary_user)[0], copies) is not None


def test_copies_that_cannot_be_written_are_not_blamed_on_the_source(ordinary_user: Path) -> None:
    (ordinary_user / "a.json").write_text("{}")
    copies = ordinary_user / "copies"
    copies.mkdir(mode=0o555)
    with pytest.raises(StoreRefused):
        claim(watched(ordinary_user)[0], copies)

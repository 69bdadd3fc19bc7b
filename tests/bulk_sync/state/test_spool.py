"""The spool: which patient data it keeps, and who cannot read it."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.state.spool import Spool, Spooled
from bot_layer.errors import TransientError

PERSON = Spooled(Key("Patient", "p1"), "a", b'{"resourceType": "Patient", "name": "Sample"}')


def filled(path: Path, key: str, export: str = "run 1") -> Spool:
    """A spool with one resource."""
    spool = Spool(path, key=key)
    spool.use(export)
    spool.add(0, [PERSON])
    return spool


def stored(folder: Path) -> bytes:
    """Every byte on disk."""
    return b"".join(each.read_bytes() for each in folder.iterdir())


def test_with_a_key_no_person_is_readable_on_disk(tmp_path: Path) -> None:
    """And it reads back what was written."""
    spool = filled(tmp_path / "x.spool", "secret")
    assert b"Sample" not in stored(tmp_path)
    assert [each.body for each in spool.read()] == [PERSON.body]
    assert [each.body for page in spool.pages("Patient") for each in page] == [PERSON.body]
    plain = filled(tmp_path / "plain" / "y.spool", "")
    assert b"Sample" in stored(tmp_path / "plain")
    plain.remove()
    assert list((tmp_path / "plain").iterdir()) == []


@pytest.mark.parametrize(("before", "now"), [("secret", "another"), ("secret", "")])
def test_a_spool_written_with_another_key_is_discarded(before: str, now: str, tmp_path: Path) -> None:
    """The export is downloaded again."""
    filled(tmp_path / "x.spool", before).close()
    spool = Spool(tmp_path / "x.spool", key=now)
    spool.use("run 1")
    assert list(spool.read()) == []


@pytest.mark.parametrize("key", ["", "secret"])
def test_the_same_export_resumes(key: str, tmp_path: Path) -> None:
    """After the process has ended, too."""
    filled(tmp_path / "x.spool", key).close()
    spool = Spool(tmp_path / "x.spool", key=key)
    spool.use("run 1")
    assert [each.body for each in spool.read()] == [PERSON.body]
    spool.use("run 2")
    assert list(spool.read()) == []


def test_nobody_else_can_read_the_file(tmp_path: Path) -> None:
    """Also an existing file with wider permissions, and the files beside it."""
    path = tmp_path / "folder" / "x.spool"
    path.parent.mkdir()
    path.touch(mode=0o644)
    filled(path, "")
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_temporary_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    """Its owner could read the content."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(TransientError) as caught:
        Spool(folder / "x.spool", private=True).use("run 1")
    assert caught.value.code == "spool-unusable"


def test_a_file_with_other_tables_is_made_anew(tmp_path: Path) -> None:
    """The spool is a cache: such a file must not stop every run."""
    path = tmp_path / "a.spool"
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE resource (type TEXT, id TEXT)")
    spool = Spool(path)
    spool.use("export")
    spool.end(1)
    assert spool.whole() == {1}
    spool.close()

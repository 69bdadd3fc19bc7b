"""The map of a sync: the same in a file, in memory, and in a schema of PostgreSQL that several machines share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.state.id_map import Failure, Known, SyncMap
from bot_layer.errors import ConfigError, TransientError

START = Key("", "")
ONE, TWO, THREE = Key("Patient", "1"), Key("Patient", "2"), Key("Observation", "1")


@pytest.fixture(params=["file", "memory", "postgres"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SyncMap]:
    """A map of each kind."""
    if request.param == "postgres":
        found = SyncMap(url=request.getfixturevalue("postgres_url"), schema="pf_sync_test")
    else:
        found = SyncMap(tmp_path / "new" / "map.sqlite" if request.param == "file" else None)
    yield found
    found.close()


def test_an_imported_resource_is_known_with_its_digest(kept: SyncMap) -> None:
    """The last word counts, and a resource that arrived is no failure any more."""
    kept.record([], failures=[Failure(ONE, 422, "why", b"{}")])
    assert list(kept.failures()) == [Failure(ONE, 422, "why", b"{}")]
    kept.record([(ONE, Known("m1", b"digest", b"compared")), (THREE, Known("m3"))])
    kept.record([(ONE, Known("m1", b"later"))])
    assert kept.rows([ONE, TWO, THREE]) == {ONE: Known("m1", b"later"), THREE: Known("m3")}
    assert list(kept.failures()) == []
    assert (kept.knows("Patient"), kept.knows("Encounter")) == (True, False)
    assert kept.ids(Key("Patient", str(number)) for number in range(1000)) == {ONE: "m1"}
    kept.forget([ONE])
    assert kept.ids([ONE, THREE]) == {THREE: "m3"}


def test_a_reference_waits_until_its_target_is_known(kept: SyncMap) -> None:
    """Then its resource can be repaired; a target that was requested without success is not requested again."""
    kept.record([(THREE, Known("m3"))], waiting=[(THREE, [ONE, TWO])])
    assert (kept.waiting(), kept.repairable(9), kept.waiting_targets(START, 9)) == (2, [], [ONE, TWO])
    kept.write_asked([TWO, TWO])
    assert kept.waiting_targets(START, 9) == [ONE]
    kept.record([(ONE, Known("m1"))])
    assert kept.repairable(9) == [THREE]
    assert kept.targets_of([THREE]) == {ONE, TWO}
    kept.record([(THREE, Known("m3"))], waiting=[(THREE, [TWO])])
    assert (kept.waiting(), kept.repairable(9)) == (1, [])


def test_a_reconcile_knows_what_it_saw(kept: SyncMap) -> None:
    """A new reconcile starts with an empty record."""
    kept.write_seen([ONE, THREE, ONE])
    assert kept.unseen([ONE, TWO, THREE]) == [TWO]
    kept.begin_seeing()
    assert kept.unseen([ONE, TWO]) == [ONE, TWO]


def test_notes_are_kept_and_a_map_of_another_past_is_emptied(kept: SyncMap) -> None:
    """Only the new name remains."""
    kept.write_note("file 1", "a")
    kept.write_note("file 1", "b")
    kept.write_note("other", "c")
    assert (kept.note("file 1"), kept.note("none")) == ("b", "")
    kept.record([(ONE, Known("m1"))], waiting=[(ONE, [TWO])])
    kept.clear("new")
    assert (kept.rows([ONE]), kept.waiting(), kept.note("other"), kept.note("cache_id")) == ({}, 0, "", "new")


def test_two_machines_share_a_schema_and_no_other(postgres_url: str) -> None:
    """Each source has its own; the first to connect creates it."""
    with ThreadPoolExecutor(4) as pool:
        maps = list(pool.map(lambda name: SyncMap(url=postgres_url, schema=name), ["pf_a", "pf_a", "pf_a", "pf_b"]))
    first, second, third, other = maps
    first.record([(ONE, Known("m1", b"x"))])
    assert second.ids([ONE]) == third.ids([ONE]) == {ONE: "m1"}
    assert other.ids([ONE]) == {}
    for each in maps:
        each.close()


@pytest.mark.parametrize("content", [b"not a database", b"half", b"format"])
def test_a_damaged_file_is_made_anew(content: bytes, tmp_path: Path) -> None:
    """The map is a cache: a run without it is slower, and a run that stops for it would be wrong."""
    path = tmp_path / "map.sqlite"
    first = SyncMap(path)
    first.write_note("much", "x" * 100_000)
    first.close()
    whole = path.read_bytes()
    # Byte 47 is the lowest of the schema's format number (https://www.sqlite.org/fileformat.html).
    damaged = {b"half": whole[: len(whole) // 2], b"format": whole[:47] + b"\x63" + whole[48:]}
    path.write_bytes(damaged.get(content, content))
    again = SyncMap(path)
    assert again.note("much") == ""
    again.write_note("little", "y")
    assert again.note("little") == "y"
    again.close()


@pytest.mark.parametrize("url", ["", "postgresql://user:hidden@127.0.0.1:1/none"])
def test_an_unusable_folder_is_named_by_its_setting(url: str, tmp_path: Path) -> None:
    """A folder that does not exist, and a database that does not answer; without the address, which has a password."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="PF_STATE_DIR") as caught:
        SyncMap(None if url else tmp_path / "file" / "map.sqlite", url=url, schema="pf_none")
    assert caught.value.code == "map-unusable"
    assert "hidden" not in str(caught.value)


def test_a_map_that_fails_during_a_run_is_reported_without_personal_data(tmp_path: Path) -> None:
    """The run continues when the disk has space again; its log had what was to be written."""
    path = tmp_path / "map.sqlite"
    kept = SyncMap(path)
    damaging = sqlite3.connect(path)
    damaging.execute("DROP TABLE failed")
    damaging.close()
    with pytest.raises(TransientError) as caught:
        kept.record((), failures=[Failure(Key("Patient", "hidden"), 400, "hidden", b"hidden")])
    kept.close()
    assert caught.value.code == "map-unusable"
    assert "person" not in "".join(str(each) for each in (caught.value, caught.value.__cause__))


def test_a_map_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """Its resources were not compared by version."""
    path = tmp_path / "map.sqlite"
    earlier = sqlite3.connect(path)
    earlier.execute(
        "CREATE TABLE known (type TEXT, id TEXT, medplum TEXT NOT NULL, digest BLOB, PRIMARY KEY (type, id))"
    )
    earlier.execute("INSERT INTO known VALUES ('Patient', '1', 'm1', x'0a')")
    earlier.commit()
    earlier.close()
    for _ in range(2):
        kept = SyncMap(path)
        assert kept.rows([ONE]) == {ONE: Known("m1", b"\n")}
        kept.close()


def test_the_map_is_its_users_alone(tmp_path: Path) -> None:
    """It contains what Medplum refused: no other user may read it, nor one from an earlier release."""
    path = tmp_path / "new" / "map.sqlite"
    for _ in range(2):
        SyncMap(path).close()
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        path.chmod(0o644)


def test_a_refused_resource_is_encrypted_where_a_key_is_set(tmp_path: Path) -> None:
    """Neither the resource nor Medplum's words about it can be read in the file."""
    refused = Failure(ONE, 422, "Unseenfamily is no date", b'{"resourceType":"Patient","name":"Unseenfamily"}')
    kept = SyncMap(tmp_path / "map.sqlite", key="k" * 32)
    kept.record((), failures=[refused])
    assert list(kept.failures()) == [refused]
    kept.close()
    assert [each.name for each in tmp_path.iterdir() if b"Unseenfamily" in each.read_bytes()] == []


@pytest.mark.parametrize("key", ["", "another key"], ids=["missing", "wrong"])
def test_a_key_that_does_not_fit_loses_no_refused_resource(tmp_path: Path, key: str) -> None:
    """The entry stays and says that it can't be read; with its own key it is all there again."""
    refused = Failure(ONE, 422, "why", b"{}")
    for this_key, expected in (("k" * 32, refused), (key, Failure(ONE, 422, "", b"", readable=False))) * 2:
        kept = SyncMap(tmp_path / "map.sqlite", key=this_key)
        if not list(kept.failures()):
            kept.record((), failures=[refused])
        assert list(kept.failures()) == [expected]
        kept.record((), failures=list(kept.failures()))
        kept.close()


def test_a_refused_resource_stored_before_a_key_was_set_can_be_read(tmp_path: Path) -> None:
    """A key that is set later loses nothing."""
    refused = Failure(ONE, 422, "why", b"{}")
    for key in ("", "k" * 32):
        kept = SyncMap(tmp_path / "map.sqlite", key=key)
        kept.record((), failures=[refused] if not key else ())
        assert list(kept.failures()) == [refused]
        kept.close()

"""A running export and its manifest: what the status address answers until the end, and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import orjson
import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.faults import Faults
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Source, Switches, generate
from tests.medplum_sandbox.pf_caller import Caller, Clock


@contextmanager
def calling(switches: Switches, source: Source | None = None, faults: Faults | None = None) -> Iterator[Caller]:
    source = source or generate(1, 2)
    with PracticeFusionSandbox(source, switches=switches, faults=faults, clock=Clock()) as box:
        caller = Caller(box)
        caller.log_in(switches.types)
        yield caller


def lines(caller: Caller, item: Json) -> list[Json]:
    return [orjson.loads(line) for line in caller.get(item["url"]).content.splitlines()]


def test_practice_fusion_says_nothing_while_it_works() -> None:
    """202 with an empty body, without Retry-After and X-Progress; then the manifest."""
    with calling(Switches.exact(polls=2)) as caller:
        address = caller.job()
        for _ in range(2):
            running = caller.get(address)
            assert (running.status_code, running.content) == (202, b"")
            assert not {"Retry-After", "X-Progress"} & set(running.headers)
        assert caller.get(address).status_code == 200


def test_practice_fusions_manifest() -> None:
    """transactionTime, request, requiresAccessToken true, output and error; no deleted, no counts."""
    with calling(Switches.exact()) as caller:
        found = caller.manifest()
        assert set(found) == {"transactionTime", "request", "requiresAccessToken", "output", "error"}
        assert found["requiresAccessToken"] is True
        assert found["request"].endswith("/$export")
        assert set(found["output"][0]) == {"type", "url"}
        job = next(iter(caller.box.jobs))
        assert found["output"][0]["url"] == f"{caller.box.base_url}/Binary/export/{job}/Patient/1"


def test_a_switch_reports_progress() -> None:
    """X-Progress grows with each poll."""
    with calling(Switches.general(polls=4)) as caller:
        address = caller.job("$export")
        assert [caller.get(address).headers["X-Progress"] for _ in range(4)] == [
            "0% complete",
            "25% complete",
            "50% complete",
            "75% complete",
        ]


@pytest.mark.parametrize(
    ("form", "value"), [("none", None), ("seconds", "1"), ("epoch", "1800000001"), ("hours", "18000")]
)
def test_retry_after_by_switch(form: str, value: str | None) -> None:
    """Seconds, or what real servers send besides: seconds since 1970, hours, nothing."""
    with calling(Switches.general(retry_after=form)) as caller:
        assert caller.get(caller.job("$export")).headers.get("Retry-After") == value


def test_retry_after_as_a_date() -> None:
    """An HTTP date one second ahead of the source's clock."""
    with calling(Switches.general(retry_after="date")) as caller:
        text = caller.get(caller.job("$export")).headers["Retry-After"]
        assert parsedate_to_datetime(text).timestamp() == caller.box.clock() + 1


def test_a_transient_problem_is_not_the_end() -> None:
    """503 with an OperationOutcome of code transient; the job continues."""
    with calling(Switches.general(transient_polls=1, polls=0)) as caller:
        address = caller.job("$export")
        answer = caller.get(address)
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (503, "transient")
        assert caller.get(address).status_code == 200


def test_a_failed_export() -> None:
    """500 with an OperationOutcome, and it stays so."""
    faults = Faults()
    with calling(Switches.exact(), faults=faults) as caller:
        address = caller.job()
        faults.add("failed_export", times=1)
        for _ in range(2):
            answer = caller.get(address)
            assert (answer.status_code, answer.json()["resourceType"]) == (500, "OperationOutcome")


def test_a_cancelled_job_is_unknown() -> None:
    """DELETE is 202, then the address is 404, and so are the files."""
    with calling(Switches.exact()) as caller:
        address = caller.job()
        assert caller.get(address).status_code == 202
        url = caller.get(address).json()["output"][0]["url"]
        assert caller.delete(address).status_code == 202
        assert caller.get(address).status_code == 404
        assert caller.get(url).status_code == 404
        assert caller.delete(address).status_code == 404


def test_a_job_ends_with_its_time() -> None:
    """After job_seconds the address is 404; so it is when jobs are expired by hand or lost by a fault."""
    faults = Faults()
    with calling(Switches.general(job_seconds=60), faults=faults) as caller:
        address = caller.job("$export")
        caller.box.clock.time += 61  # type: ignore[attr-defined]  # the test's own clock
        assert caller.get(address).status_code == 404
        second = caller.job("$export")
        caller.box.expire_jobs()
        assert caller.get(second).status_code == 404
        third = caller.job("$export")
        faults.add("lost_job", times=1)
        assert caller.get(third).status_code == 404


def test_deletions_are_transaction_bundles() -> None:
    """With _since: resources deleted after it, up to two a line; never in the output, and not without _since."""
    with calling(Switches.general(deleted=True)) as caller:
        source, since = caller.box.source, caller.manifest("$export")["transactionTime"]
        removed = list(source.entries["Observation"])[:3]
        for id_ in removed:
            source.delete("Observation", id_, at=caller.box.now())
        found = caller.manifest(f"$export?_since={since}")
        assert [(item["type"], item["count"]) for item in found["deleted"]] == [("Bundle", 2)]
        bundles = lines(caller, found["deleted"][0])
        assert {bundle["type"] for bundle in bundles} == {"transaction"}
        requests = [entry["request"] for bundle in bundles for entry in bundle["entry"]]
        assert requests == [{"method": "DELETE", "url": f"Observation/{id_}"} for id_ in removed]
        assert "deleted" not in caller.manifest("$export")
        later = found["transactionTime"]
        assert "deleted" not in caller.manifest(f"$export?_since={later}")


def test_a_resource_that_was_deleted_and_created_again_is_not_deleted() -> None:
    """A resource in deleted is never in output too."""
    with calling(Switches.general()) as caller:
        source, since = caller.box.source, caller.manifest("$export")["transactionTime"]
        id_ = next(iter(source.entries["Goal"]))
        again = source.get("Goal", id_)
        assert again is not None
        source.delete("Goal", id_, at=caller.box.now())
        source.add(again, at=caller.box.now())
        found = caller.manifest(f"$export?_since={since}")
        assert "deleted" not in found
        assert [item["type"] for item in found["output"]] == ["Goal"]


def test_practice_fusion_names_no_deletions() -> None:
    """STU1 has no deleted."""
    with calling(Switches.exact()) as caller:
        since = caller.manifest()["transactionTime"]
        caller.box.source.delete("Goal", next(iter(caller.box.source.entries["Goal"])), at=caller.box.now())
        assert "deleted" not in caller.manifest(f"Group/{caller.box.group_id}/$export?_since={since}")


@pytest.mark.parametrize("key", ["error", "outcome"])
def test_outcome_files(key: str) -> None:
    """OperationOutcomes stand under error, or under outcome on newer servers."""
    with calling(Switches.general(outcomes=("warning", "error"), outcome_key=key)) as caller:
        (item,) = caller.manifest("$export")[key]
        assert (item["type"], item["count"]) == ("OperationOutcome", 2)
        assert [line["issue"][0]["severity"] for line in lines(caller, item)] == ["warning", "error"]


def test_pages_of_a_manifest() -> None:
    """link.next leads through all files; the rest is the same on each page, and outcomes stand once."""
    with calling(Switches.general(manifest_files=5, outcomes=("error",))) as caller:
        page = caller.manifest("$export")
        first, urls, pages = page, [item["url"] for item in page["output"]], 1
        while "link" in page:
            assert page["link"][0]["relation"] == "next"
            page = caller.get(page["link"][0]["url"]).json()
            assert (page["transactionTime"], page["error"]) == (first["transactionTime"], [])
            urls += [item["url"] for item in page["output"]]
            pages += 1
        assert (len(urls), len(set(urls)), pages) == (27, 27, 6)
        assert len(first["error"]) == 1


def test_partial_manifests() -> None:
    """A client that allows them gets a 202 with the files that are ready; later only a link is added."""
    switches = Switches.general(partial_manifests=True, manifest_files=5)
    with calling(switches) as caller:
        address = caller.job("$export?allowPartialManifests=true")
        early, final = caller.get(address), caller.get(address)
        assert (early.status_code, final.status_code) == (202, 200)
        assert len(early.json()["output"]) == 5
        assert {**final.json(), "link": None} == {**early.json(), "link": None}
        assert ("link" in early.json(), "link" in final.json()) == (False, True)
        assert caller.get(caller.job("$export")).content == b""


def test_a_manifest_of_the_fourth_edition() -> None:
    """No request, and extension is an array."""
    with calling(Switches.general(lists_extension=True)) as caller:
        found = caller.manifest("$export")
        assert "request" not in found
        assert isinstance(found["extension"], list)


def test_files_have_parts() -> None:
    """part_size resources a file, numbered from 1."""
    with calling(Switches.general(part_size=5)) as caller:
        found = caller.manifest("$export?_type=Observation")["output"]
        assert [item["count"] for item in found] == [5, 5, 2]
        assert [item["url"].rpartition("/")[2] for item in found] == ["1", "2", "3"]


def test_a_wrong_count() -> None:
    """The fault makes the first count of the manifest too large by one, once."""
    faults = Faults()
    faults.add("wrong_count", times=1)
    with calling(Switches.general(), faults=faults) as caller:
        assert caller.manifest("$export?_type=Goal")["output"][0]["count"] == 3
        assert caller.manifest("$export?_type=Goal")["output"][0]["count"] == 2


def test_another_practice_on_the_same_server() -> None:
    """serve() switches the data: old jobs are not found, the token still works, absolute references have this base."""
    with calling(Switches.general()) as caller:
        address = caller.job("$export")
        caller.box.serve(generate(2, 3))
        assert caller.get(address).status_code == 404
        (item,) = caller.manifest("$export?_type=Patient")["output"]
        assert [line["id"] for line in lines(caller, item)] == list(caller.box.source.entries["Patient"])
        assert caller.box.source.base == caller.box.base_url


def test_an_export_is_of_one_moment() -> None:
    """What changes after the kick-off is not in its files."""
    with calling(Switches.general()) as caller:
        source, address = caller.box.source, caller.job("$export?_type=Patient")
        id_ = next(iter(source.entries["Patient"]))
        source.change("Patient", id_, {"active": False}, at=caller.box.now())
        caller.get(address)
        assert [line["active"] for line in lines(caller, caller.get(address).json()["output"][0])] == [True, True]

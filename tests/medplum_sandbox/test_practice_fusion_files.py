"""Files of an export: every shape that they have, and everything that can fail on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import pytest
import requests

from bot_layer.fhir.json import Json
from medplum_sandbox.faults import Faults
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Source, Switches, generate
from tests.medplum_sandbox.pf_caller import Caller, Clock


@contextmanager
def calling(switches: Switches, source: Source | None = None, faults: Faults | None = None) -> Iterator[Caller]:
    source = source or generate(1, 4)
    with PracticeFusionSandbox(source, switches=switches, faults=faults, clock=Clock()) as box:
        caller = Caller(box)
        caller.log_in(switches.types)
        yield caller


def one_file(caller: Caller, kind: str = "Patient") -> str:
    path = "$export" if "system" in caller.box.switches.levels else f"Group/{caller.box.group_id}/$export"
    url: str = caller.manifest(f"{path}?_type={kind}")["output"][0]["url"]
    return url


def expected(caller: Caller, kind: str = "Patient") -> list[Json]:
    return list(caller.box.source.resources(kind))


def parsed(content: bytes) -> list[Json]:
    return [orjson.loads(line) for line in content.splitlines()]


def test_one_resource_a_line() -> None:
    """NDJSON, with the type's resources as the source has them; a token is needed."""
    with calling(Switches.exact()) as caller:
        url = one_file(caller)
        answer = caller.get(url)
        assert answer.headers["Content-Type"] == "application/fhir+ndjson"
        assert parsed(answer.content) == expected(caller)
        assert requests.get(url, timeout=240).status_code == 401
        assert caller.get(url + "1").status_code == 404


def test_messy_lines() -> None:
    """By switch: a byte order mark, CRLF, empty lines, and no line end after the last one."""
    with calling(Switches.general(shape="messy")) as caller:
        content = caller.get(one_file(caller)).content
        assert content.startswith(b"\xef\xbb\xbf{")
        assert content.count(b"\r\n\r\n") == 3
        assert not content.endswith(b"\n")
        assert [orjson.loads(part) for part in content[3:].split(b"\r\n\r\n")] == expected(caller)


def test_pretty_printed_single_resources() -> None:
    """By switch: each file has one resource, printed over several lines, as application/json."""
    with calling(Switches.exact(shape="pretty")) as caller:
        files = caller.manifest(f"Group/{caller.box.group_id}/$export?_type=Patient")["output"]
        answers = [caller.get(item["url"]) for item in files]
        assert [orjson.loads(answer.content) for answer in answers] == expected(caller)
        assert {answer.headers["Content-Type"] for answer in answers} == {"application/json"}
        assert all(answer.content.count(b"\n") > 10 for answer in answers)


def test_an_array_or_a_bundle_in_place_of_lines() -> None:
    """By switch: one JSON text for the whole file."""
    with calling(Switches.general(shape="array")) as caller:
        assert caller.get(one_file(caller)).json() == expected(caller)
    with calling(Switches.general(shape="bundle")) as caller:
        bundle = caller.get(one_file(caller)).json()
        assert [entry["resource"] for entry in bundle["entry"]] == expected(caller)


@pytest.mark.parametrize(("text", "mark"), [("spaced", b'": "'), ("ascii", b"\\u"), ("slashes", b"\\/")])
def test_other_spellings_of_the_same_json(text: str, mark: bytes) -> None:
    """By switch: spaces, another order of keys, escaped letters, escaped slashes; the values are the same."""
    with calling(Switches.general(text=text)) as caller:
        content = caller.get(one_file(caller, "CarePlan")).content
        assert mark in content
        assert parsed(content) == expected(caller, "CarePlan")
        assert content != b"".join(orjson.dumps(line) + b"\n" for line in expected(caller, "CarePlan"))


def test_gzip_by_switch() -> None:
    """Compressed only if the client accepts it and the server supports it."""
    with calling(Switches.general()) as caller:
        url = one_file(caller)
        packed = caller.get(url, Accept_Encoding="gzip")
        plain = caller.get(url, Accept_Encoding="identity")
        assert packed.headers["Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in plain.headers
        assert packed.content == plain.content
    with calling(Switches.exact()) as caller:
        assert "Content-Encoding" not in caller.get(one_file(caller), Accept_Encoding="gzip").headers


@pytest.mark.parametrize("note_bytes", [100, 200_000])
def test_a_broken_download(note_bytes: int) -> None:
    """The fault cuts the connection after half of the file, however big; the next attempt is whole."""
    faults = Faults()
    faults.add("broken_download", times=1)
    with calling(Switches.exact(), generate(1, 4, note_bytes=note_bytes), faults) as caller:
        url = one_file(caller, "CarePlan")
        headers = {"Authorization": f"Bearer {caller.token}"}
        with requests.get(url, headers=headers, stream=True, timeout=240) as answer:
            size = int(answer.headers["Content-Length"])
            with pytest.raises(requests.exceptions.RequestException):
                received = b"".join(answer.iter_content(1024))
                pytest.fail(f"{len(received)} bytes arrived")
        whole = caller.get(url)
        assert len(whole.content) == size
        assert parsed(whole.content) == expected(caller, "CarePlan")


def test_a_broken_packed_download() -> None:
    """A gzip stream that is cut is an error for the client, too."""
    faults = Faults()
    faults.add("broken_download", times=1)
    with calling(Switches.general(), faults=faults) as caller:
        url = one_file(caller, "CarePlan")
        with pytest.raises(requests.exceptions.RequestException):
            caller.get(url)
        assert parsed(caller.get(url).content) == expected(caller, "CarePlan")


def test_ranges_by_switch() -> None:
    """Range: bytes=N- gives the rest with 206; beyond the end 416; without the switch the whole file with 200."""
    with calling(Switches.general(ranges=True), generate(1, 4, note_bytes=200_000)) as caller:
        url = one_file(caller, "CarePlan")
        whole = caller.get(url, Accept_Encoding="identity").content
        for start in (100, len(whole) // 2, len(whole) - 1):
            rest = caller.get(url, Range=f"bytes={start}-")
            assert (rest.status_code, rest.content) == (206, whole[start:])
            assert rest.headers["Content-Range"] == f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        assert caller.get(url, Range=f"bytes={len(whole)}-").status_code == 416
        assert caller.get(url, Range="bytes=5-6").status_code == 200
    with calling(Switches.exact()) as caller:
        assert caller.get(one_file(caller), Range="bytes=100-").status_code == 200


def test_a_bad_line() -> None:
    """The fault cuts one line of the file off; all others are as they were, and the number of lines stays."""
    faults = Faults()
    faults.add("bad_line", times=1)
    with calling(Switches.general(), faults=faults) as caller:
        url = one_file(caller)
        spoilt = caller.get(url).content.splitlines()
        good = caller.get(url).content.splitlines()
        different = [(bad, line) for bad, line in zip(spoilt, good, strict=True) if bad != line]
        assert len(different) == 1
        with pytest.raises(json.JSONDecodeError):
            json.loads(different[0][0])


def test_signed_links_are_on_another_host() -> None:
    """requiresAccessToken is false: the link works without a token, and refuses one."""
    with calling(Switches.general(signed_urls=True)) as caller:
        found = caller.manifest("$export?_type=Patient")
        url = found["output"][0]["url"]
        assert found["requiresAccessToken"] is False
        assert url.split("/")[2] != caller.box.base_url.split("/")[2]
        assert parsed(requests.get(url, timeout=240).content) == expected(caller)
        assert caller.get(url).status_code == 400
        assert [seen.authorized for seen in caller.box.foreign_requests] == [False, True]
        assert requests.get(url[:-1] + "x", timeout=240).status_code == 403
        caller.box.expire_jobs()
        assert requests.get(url, timeout=240).status_code == 404


@pytest.mark.parametrize("signed", [True, False])
def test_links_grow_old(signed: bool) -> None:
    """After link_seconds the file is 403; the manifest, asked again, has new links."""
    with calling(Switches.general(signed_urls=signed, link_seconds=30)) as caller:
        address = caller.job("$export?_type=Patient")
        caller.get(address)
        old = caller.get(address).json()["output"][0]["url"]
        caller.box.clock.time += 31  # type: ignore[attr-defined]  # the test's own clock
        headers = {} if signed else {"Authorization": f"Bearer {caller.token}"}
        assert requests.get(old, headers=headers, timeout=240).status_code == 403
        new = caller.get(address).json()["output"][0]["url"]
        assert requests.get(new, headers=headers, timeout=240).status_code == 200


@pytest.mark.parametrize("signed", [True, False])
def test_an_expired_link_as_a_fault(signed: bool) -> None:
    """One download is 403, as if its link had grown old."""
    faults = Faults()
    faults.add("expired_link", times=1)
    with calling(Switches.general(signed_urls=signed), faults=faults) as caller:
        url = one_file(caller)
        headers = {} if signed else {"Authorization": f"Bearer {caller.token}"}
        assert [requests.get(url, headers=headers, timeout=240).status_code for _ in range(2)] == [403, 200]


def test_a_redirect_leads_to_another_host() -> None:
    """The fault answers 302; the other host has the file, and records whether a token was sent."""
    faults = Faults()
    faults.add("redirect_download", times=1)
    with calling(Switches.exact(), faults=faults) as caller:
        url = one_file(caller)
        moved = caller.get(url)
        assert moved.status_code == 302
        assert parsed(requests.get(moved.headers["Location"], timeout=240).content) == expected(caller)
        assert caller.get(moved.headers["Location"]).status_code == 400
        assert [seen.authorized for seen in caller.box.foreign_requests] == [False, True]


def test_an_expired_token_in_the_middle() -> None:
    """The fault ends the token at one request: 401, and so is each one after it with this token."""
    faults = Faults()
    with calling(Switches.exact(), faults=faults) as caller:
        url = one_file(caller)
        faults.add("expired_token", times=1, path="/Binary/export/")
        assert [caller.get(url).status_code for _ in range(2)] == [401, 401]
        caller.log_in()
        assert caller.get(url).status_code == 200


def test_too_many_requests_without_a_word_how_long() -> None:
    """Practice Fusion's 429 has no Retry-After; the general one has."""
    for switches, wait in ((Switches.exact(), None), (Switches.general(), "1")):
        faults = Faults()
        with calling(switches, faults=faults) as caller:
            faults.add("too_many", times=1)
            answer = caller.get("Patient")
            assert (answer.status_code, answer.headers.get("Retry-After")) == (429, wait)
            assert caller.get("Patient").status_code == 200


def test_server_errors_and_slowness() -> None:
    """A 5xx of the rule's choice with an OperationOutcome; a slow answer is the right one."""
    faults = Faults()
    with calling(Switches.exact(), faults=faults) as caller:
        faults.add("server_error", times=1, status=502)
        faults.add("slow", seconds=0.001)
        assert caller.get("Patient").status_code == 502
        assert caller.get("Patient").status_code == 200


@pytest.mark.parametrize(("kind", "jobs"), [("reset_before_write", 0), ("reset_after_write", 1)])
def test_a_lost_answer(kind: str, jobs: int) -> None:
    """A reset before or after the work: the client gets no answer; in the second case the job exists."""
    faults = Faults()
    with calling(Switches.exact(), faults=faults) as caller:
        faults.add(kind, times=1, method="GET")
        with pytest.raises(requests.exceptions.ConnectionError):
            caller.kick_off()
        assert len(caller.box.jobs) == jobs
        assert caller.box.requests[-1].status == 0


def test_requests_are_kept_without_the_token() -> None:
    """Method, path, query, status and headers of each request; the token's value is nowhere."""
    with calling(Switches.exact()) as caller:
        caller.box.clear_requests()
        caller.get("Patient?_count=1")
        (seen,) = caller.box.requests
        assert (seen.method, seen.path.endswith("/Patient"), seen.query) == ("GET", True, "_count=1")
        assert (seen.status, seen.host, seen.authorized) == (200, "api", True)
        assert caller.token not in repr(caller.box.requests)


def test_a_file_of_any_size_is_made_while_it_is_read() -> None:
    """A big file has the size, count and lines that the manifest says, can be resumed, and needs no memory."""
    source = generate(1, 1, types=["Patient"])
    big = source.add_big("Observation", 3_000_000)
    with calling(Switches.general(ranges=True, gzip=False), source) as caller:
        (item,) = caller.manifest("$export?_type=Observation")["output"]
        whole = caller.get(item["url"]).content
        assert item["count"] == big.count == whole.count(b"\n")
        assert abs(len(whole) - 3_000_000) < 2000
        assert len({line["id"] for line in parsed(whole)}) == big.count
        start = len(whole) // 3
        assert caller.get(item["url"], Range=f"bytes={start}-").content == whole[start:]
        since = caller.manifest("$export")["transactionTime"]
        assert caller.manifest(f"$export?_since={since}")["output"] == []


def test_ten_thousand_resources_are_exported() -> None:
    """From the kick-off to the last byte of the last file."""
    with calling(Switches.exact(), generate(1, 320)) as caller:
        files = caller.manifest()["output"]
        read = sum(caller.get(item["url"]).content.count(b"\n") for item in files)
        assert (caller.box.source.count() > 10_000, read > 9_000) == (True, True)

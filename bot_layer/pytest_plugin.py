"""A pytest plugin beside that of ``medplum_sandbox``: the fixture ``deploy_bots``, which runs bots on the look-alike.

    def test_the_bot_greets(medplum, deploy_bots):
        bots = deploy_bots("say-hello")
        patient = medplum.create({"resourceType": "Patient", "name": [{"given": ["Ada"]}]})
        answer = bots.execute("say-hello", patient)

The bots are those of ``[tool.medplum-bots]`` in the project's pyproject.toml. They run in this process, behind the same
host that ``medplum-bots serve`` starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bot_layer.testing import DeployedBots


@pytest.fixture
def deploy_bots(request: pytest.FixtureRequest) -> Iterator[Callable[..., DeployedBots]]:
    """Deploys bots by name (all of the collections without a name) with ``settings`` as project secrets."""
    from bot_layer.bot.collection import configured, load  # noqa: PLC0415  # only a test that uses it pays for it
    from bot_layer.testing import start  # noqa: PLC0415

    medplum = request.getfixturevalue("medplum")
    with ExitStack() as stack:

        def deploy(
            *names: str, settings: dict[str, str] | None = None, collections: tuple[str, ...] = ()
        ) -> DeployedBots:
            bots = load(*(collections or configured(request.config.rootpath))).only(names)
            running, address = start(medplum.environment, bots, settings or {})
            stack.enter_context(running.host)
            medplum.server.bot_host = address
            return running

        yield deploy

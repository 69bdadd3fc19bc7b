"""``python -m medplum_sandbox.compare URL URL --login ID:SECRET --login ID:SECRET [--seed N] [--count N]``."""

from __future__ import annotations

import argparse
import random
import sys

from medplum_sandbox.compare import bots
from medplum_sandbox.compare.generator import Generator
from medplum_sandbox.compare.report import Report, plain
from medplum_sandbox.compare.routes import RULES
from medplum_sandbox.compare.session import Login, Pair, Server


def main(arguments: list[str] | None = None) -> int:
    """0 where at least ``--least`` percent of the answers were the same."""
    parser = argparse.ArgumentParser(prog="python -m medplum_sandbox.compare", description=__doc__)
    parser.add_argument("url", nargs=2, help="the two servers")
    parser.add_argument("--login", action="append", required=True, help="ID:SECRET of a client, once for each server")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--count", type=int, default=500, help="requests of each seed")
    parser.add_argument("--bots", type=float, default=0.0, help="the share of calls of a JavaScript bot, 0 to 1")
    parser.add_argument("--least", type=float, default=0.0, help="the share of equal answers, in percent, to ask for")
    options = parser.parse_args(arguments)
    if len(options.login) != len(options.url):
        parser.error("Give --login twice: one for each server, in their order.")
    logins = [Login(url, *login.split(":", 1)) for url, login in zip(options.url, options.login, strict=True)]
    pair = Pair(Server(logins[0]), Server(logins[1]))
    report = Report()
    for server in (pair.one, pair.other):
        server.restrict(RULES)
    if options.bots:
        bots.deploy(pair)
    for seed in range(options.seed, options.seed + options.seeds):
        compare(pair, seed, options.count, report, share_of_bots=options.bots)
    print(report.text())  # noqa: T201  # the tool's result
    return 0 if 100 * (report.sent - report.different) >= options.least * report.sent else 1


def compare(pair: Pair, seed: int, count: int, report: Report, *, share_of_bots: float = 0.0) -> None:
    """Sends the requests of one seed to both servers and adds to the report."""
    generator = Generator(seed, pair.known)
    chance = random.Random(seed)  # noqa: S311  # the same seed must give the same requests; nothing is secret
    for _ in range(count):
        request = bots.call(chance) if chance.random() < share_of_bots else generator.next()
        one, other = pair.send(request)
        first = plain(one, pair.one, ordered=request.ordered)
        second = plain(other, pair.other, ordered=request.ordered)
        report.add(request, first, second)


if __name__ == "__main__":
    sys.exit(main())

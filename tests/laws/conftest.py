"""Laws are about values, never about time: a busy machine must not make one fail."""

from __future__ import annotations

import os

from hypothesis import Phase, settings

# That a law fails on a mutant is all that counts there: no smaller example is looked for.
_PHASES = tuple(phase for phase in Phase if phase is not Phase.shrink or "MUTANTS" not in os.environ)
settings.register_profile("laws", deadline=None, phases=_PHASES)
settings.load_profile("laws")

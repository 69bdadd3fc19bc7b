"""K7. `medplum-bots adt --patient <merged away> --event A29` writes a deletion of the surviving record.

The partner deletes the living patient's record. Expected: the command refuses (or writes an A40 with MRG); the same for
A29 of an active patient (at least a warning).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from medplum_sandbox.health_gorilla import HealthGorillaSandbox
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests.bots.patient_world import MRN, Clinic, person
from tests.reported_cases.conversation import Checks


def test_k07_adt_a29_survivor() -> None:
    check = Checks()
    with MedplumSandbox() as m:
        w = Clinic(m, HealthGorillaSandbox())
        live = w.server.create(
            person(name=[{"family": "Quandt", "given": ["Ilse"]}], identifier=[{"system": MRN, "value": "M-1"}])
        )
        removed = w.server.create(
            person(
                name=[{"family": "Quant", "given": ["Else"]}],
                identifier=[{"system": MRN, "value": "M-2"}],
                active=False,
                link=[{"other": {"reference": f"Patient/{live['id']}"}, "type": "replaced-by"}],
            )
        )
        env = {
            **os.environ,
            "MEDPLUM_BASE_URL": m.base_url,
            "MEDPLUM_CLIENT_ID": m.client_id,
            "MEDPLUM_CLIENT_SECRET": m.client_secret,
        }
        done = subprocess.run(
            [str(Path(sys.executable).with_name("medplum-bots")), "adt", "--patient", removed["id"], "--event", "A29"],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        check(
            "no A29 that names the living record's number",
            "M-1" not in done.stdout,
            (done.returncode, done.stdout.replace("\r", " / ")[:330]),
        )
    check.done()

"""A look-alike of Practice Fusion's bulk data interface, and its data, generated from a seed."""

from medplum_sandbox.practice_fusion.big_files import BigFile, stream_ndjson
from medplum_sandbox.practice_fusion.canned import Canned
from medplum_sandbox.practice_fusion.generate import START, generate
from medplum_sandbox.practice_fusion.sandbox import PracticeFusionSandbox
from medplum_sandbox.practice_fusion.source import Source
from medplum_sandbox.practice_fusion.switches import ALL_TYPES, EXPORTABLE, OTHER_TYPES, Switches

__all__ = [
    "ALL_TYPES",
    "EXPORTABLE",
    "OTHER_TYPES",
    "START",
    "BigFile",
    "Canned",
    "PracticeFusionSandbox",
    "Source",
    "Switches",
    "generate",
    "stream_ndjson",
]

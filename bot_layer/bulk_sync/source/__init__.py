"""A source of FHIR Bulk Data, as Practice Fusion is one."""

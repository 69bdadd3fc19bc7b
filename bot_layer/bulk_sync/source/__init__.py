"""A source of FHIR Bulk Data, such as Practice Fusion."""

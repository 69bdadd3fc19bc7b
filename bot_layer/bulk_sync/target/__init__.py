"""Writing to Medplum."""

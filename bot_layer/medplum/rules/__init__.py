"""Pure rules of the Medplum client."""

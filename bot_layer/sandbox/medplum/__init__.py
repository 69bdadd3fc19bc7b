"""A Medplum look-alike that answers as the recorded server does."""

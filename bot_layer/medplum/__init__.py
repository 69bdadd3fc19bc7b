"""Medplum by pymedplum: single resources for bots, batches for the bulk sync."""

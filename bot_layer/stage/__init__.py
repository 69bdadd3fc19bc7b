"""Everything that a trial needs, on this machine alone: Medplum and the partners as look-alikes, and the bots' host beside them."""

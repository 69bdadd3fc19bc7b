"""Everything that a trial needs, on this machine alone: the look-alikes, and the bots' host beside them."""

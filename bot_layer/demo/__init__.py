"""Everything that a trial needs, all on this machine: the look-alikes and the bots' host."""

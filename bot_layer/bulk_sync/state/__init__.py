"""What a sync remembers between runs: the Task in Medplum and the id map."""

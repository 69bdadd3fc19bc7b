"""What a sync stores between runs: the Task in Medplum and the id map."""

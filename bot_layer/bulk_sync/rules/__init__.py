"""A source's resources by Bulk Data export, and what Medplum is to hold of them."""

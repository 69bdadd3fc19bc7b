"""Rules for a source's Bulk Data exports and for the resources that Medplum gets from them."""

"""Cases that were reported from the first version, one test each; the people in them are invented."""

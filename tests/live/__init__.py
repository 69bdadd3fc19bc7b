"""The project on a Medplum server as its users see it: the server in the environment, else the look-alike."""

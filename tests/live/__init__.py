"""The project on a Medplum server as its users meet it: any server that is named, else the look-alike."""

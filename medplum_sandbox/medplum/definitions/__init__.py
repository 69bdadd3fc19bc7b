"""What a Medplum server knows of FHIR: types, constraints and search parameters, as generated tables and their readers.

``python -m medplum_sandbox.generate`` writes the three text files; each module here holds the writer and the reader of
one of them, so that the notation stands in one place.
"""

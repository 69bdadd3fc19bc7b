"""Registration in Health Gorilla's patient index, as FHIR and as ADT messages."""

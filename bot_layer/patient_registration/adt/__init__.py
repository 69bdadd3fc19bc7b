"""HL7 v2 ADT messages."""

"""Sends the same seeded random requests to two Medplum servers and reports the kinds of differences.

``python -m medplum_sandbox.compare URL URL --login ID:SECRET --login ID:SECRET``. Each login should be the
administrator of a fresh project with a large quota. The tool keeps both servers in step: what only one of them did is
undone.
"""

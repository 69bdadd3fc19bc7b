"""Which values of a recording are kept, and how all others are replaced."""

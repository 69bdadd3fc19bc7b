"""A check of the tests: each mutant is a small fault in a pure rule, and a law or test must fail on it."""

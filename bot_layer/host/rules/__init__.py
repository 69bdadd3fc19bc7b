"""The host's rules as pure functions: callers, deliveries, retries, alerts."""

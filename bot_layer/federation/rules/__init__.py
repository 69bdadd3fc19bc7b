"""Rules for document queries that Health Gorilla forwards."""

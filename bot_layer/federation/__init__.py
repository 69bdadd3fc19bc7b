"""The federated document responder: routes, tokens, audit."""

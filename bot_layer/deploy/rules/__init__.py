"""Pure rules of a deployment: plan and checks."""

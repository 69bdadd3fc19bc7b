"""What hosts and deployments decide: deliveries, repeats, plans."""

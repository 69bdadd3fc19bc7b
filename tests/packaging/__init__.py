"""What is installed, and by which commands."""

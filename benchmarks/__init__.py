"""What is measured, against what, as ratios or counts of one run."""

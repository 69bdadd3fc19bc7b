"""What is kept of a recording, and what stands for everything else."""

"""What surrounds training on Lightning's side: checkpoints, care for disk and memory, pictures for loggers."""

"""Lightning callbacks and loggers: checkpoints, disk space, calibration, results, curves, pictures."""

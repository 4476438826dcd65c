"""What one run of `fit` consists of, whatever the stage: batches, state, checkpoints, log, processes."""

"""A student of few steps and no guidance, taught by a checkpoint's own trajectories: `python -m export distill`."""

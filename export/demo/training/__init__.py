"""Training of the demo checkpoint: each part by its own stage, on the sounds of `export.demo.sounds`, resumable."""

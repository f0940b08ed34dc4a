"""From noise to clean latents: the denoising loop, its schedulers and its noise."""

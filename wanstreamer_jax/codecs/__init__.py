"""Audio and video to continuous latents and back, causal and streamable."""

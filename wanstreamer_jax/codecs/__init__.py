"""Audio and video to continuous latents and back, causal and streamable.

`audio_vae` with `source_filter` and `pitch`, and `video_vae`; both with the `posterior`. `losses` compares media with
their reconstructions.
"""

"""The letters used in every einsum and shape comment.

    T query tokens      S key tokens        K units of a crop     E ephemeral tokens of a unit (REFEED, PERFORM)
    D model width       F MLP width         V vocabulary          L layers
    N query heads       M key/value heads   G queries per key     H head dimension (N = M * G)
    A audio latents of a unit               Z latent channels     C conditioning or convolution channels
    P patch side        R rows              Q columns

There is no batch letter: every function handles one session, and `jax.vmap` makes the batch.
"""

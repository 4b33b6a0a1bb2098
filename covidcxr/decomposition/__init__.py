"""yang2021: a slice taken apart into its normal part and its lesion, learned from image labels alone; and its two GAN peers.

    training.set_seed(0)
    game = Decomposition(networks.decomposer(256), networks.critic(256))
    history = trainer.train(game, normal, lesioned, steps=20000, folder=…, name="decomposition", made_from=…)
    lesion = game.lesion_maps(slices)              # float32 (N, H, W) in [-1, 1], 0 where there is none

    networks        the encoder with its two decoders, the generator of one image, the critic
    losses          norms, the gradient penalty, what critic and generator are paid for
    input_gradient  the one function that each backend has its own of
    games           what is played for: yang2021, VA-GAN (Baumgartner 2018), BL (Zhang 2019)
    players         a step of the critic, a step of the generator, as Keras models
    trainer         alternating steps, kept on disk, taken up exactly
"""

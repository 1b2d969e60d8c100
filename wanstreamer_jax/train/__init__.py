"""One training loop for all stages, the stages, and what a run writes.

Modules:
    checkpoint.py          Training checkpoints (Orbax): atomic, written in the background, for any mesh
    clock.py               Runs that end by the clock (`train.minutes`): when to stop and save, and the schedule
    codec_losses.py        Losses of stage 0, for the audio and the video codec, on one unbatched clip
    codecs.py              Stage 0: trains the audio and the video codec on clips of media records
    critic.py              Discriminators of the audio codec's stage 0, an option of its training
    duplex.py              Stage 2: duplex interaction with teacher forcing; text and flow losses
    duplex_validation.py   Validates the duplex stage by rollouts on held-out users
    flops.py               Counts the FLOPs that the mathematics of a training step needs
    language_model.py      Starts a streamer from the folder of `train.language_model`
    lock.py                Locks a run's folder: two jobs that train into one would destroy each other's files
    loop.py                One training loop for all stages: `train(stage, config)`
    metric_log.py          Logs a run: `RUN/metrics.jsonl`, TensorBoard, and lines on the terminal
    nonfinite.py           Finds the first number that is not finite, after the fact
    optim.py               AdamW or Muon with clipping, schedules and a rate per parameter group
    picture_critic.py      Discriminators of the video codec's stage 0, an option of its training
    prefetch.py            Reads batches and places them on the devices before the step that needs them
    provenance.py          Records what a run was made with: config, code and library versions
    readouts.py            The loss of the auxiliary readouts; perception alone as a first phase
    run_folder.py          The folder of a run, on this machine or in an object store (`gs://bucket/run`)
    senses.py              The pretrained encoders that training starts with: `train.hearing`, `train.seeing`
    stage.py               The interface between the training loop and a stage
    stages.py              The training stages by name
    state.py               The training state and the one step that advances it
"""

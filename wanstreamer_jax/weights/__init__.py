"""Reads and writes weights: runs, exports, the shipped demo, and Qwen models.

Modules:
    agent.py          An `Agent` on disk: joined from trained parts, exported as one folder, loaded
    import_codec.py   Imports a pretrained codec: a folder of another library becomes a codec with its sizes in the config
    perception.py     Pretrained ears and eyes: fills the trunks of `perception`
    pocket.py         Imports the Pocket TTS tokenizer from a folder of transformers (`PocketTTSAudioTokenizerModel`)
    qwen.py           Loads a Qwen2, Qwen2.5 or Qwen3 language model as the text path of a WanStreamer
    store.py          Reads and writes exported weights (safetensors); reads training checkpoints (Orbax)
    tae.py            Imports the small decoder for Wan's latents from a folder with the safetensors of TAEW2.1 or TAEW2.2
    tensors.py        Reads folders of other libraries' weights: config.json and safetensors files, one or several with an index
    wan.py            Imports the video VAE of Wan2.1 or Wan2.2 from a folder of diffusers (`AutoencoderKLWan`)
"""

"""Reads and writes weights: runs, exports, the shipped demo, and other people's parts.

Modules:
    agent.py           An `Agent` on disk: joined from trained parts, exported as one folder, loaded
    import_codec.py    Imports a pretrained codec from a folder of another library
    perception.py      Pretrained ears and eyes: fills the trunks of `perception`
    pocket.py          Imports the Pocket TTS tokenizer from a folder of transformers
    qwen.py            A Qwen2, Qwen2.5 or Qwen3 language model as the text path of a WanStreamer
    qwen_config.py     Writes the config file of a streamer that starts from a language model
    qwen_export.py     Writes the text path of a streamer as a folder that transformers loads
    store.py           Reads and writes exported weights (safetensors); reads training checkpoints (Orbax)
    tae.py             Imports the small decoder for Wan's latents, TAEW2.1 or TAEW2.2, from safetensors
    tensor_folder.py   Reads a folder of safetensors tensor by tensor, and only the numbers asked for
    tensors.py         Takes the tensors of another library's folder under our names, each exactly once
    wan.py             Imports the video VAE of Wan2.1 or Wan2.2 from a folder of diffusers
"""

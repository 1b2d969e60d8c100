"""Reads and writes weights: runs, exports, the shipped demo, and Qwen models.

Modules:
    agent.py           An `Agent` on disk: joined from trained parts, exported as one folder, loaded
    qwen.py            A Qwen2, Qwen2.5 or Qwen3 language model as the text path of a WanStreamer
    qwen_config.py     Writes the config file of a streamer that starts from a language model
    qwen_export.py     Writes the text path of a streamer as a folder that transformers loads
    store.py           Reads and writes exported weights (safetensors); reads training checkpoints (Orbax)
    tensor_folder.py   Reads any part of any tensor of a folder of safetensors
"""

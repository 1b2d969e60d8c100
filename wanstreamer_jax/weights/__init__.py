"""Reads and writes weights: runs, exports, the shipped demo, and Qwen models.

Modules:
    agent.py        An `Agent` on disk: joined from trained parts, exported as one folder, loaded
    perception.py   Pretrained ears and eyes: fills the trunks of `perception`
    qwen.py         Loads a Qwen2, Qwen2.5 or Qwen3 language model as the text path of a WanStreamer
    store.py        Reads and writes exported weights (safetensors); reads training checkpoints (Orbax)
    tensors.py      Reads tensors of a folder that `save_pretrained` writes
"""

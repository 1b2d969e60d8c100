"""Where weights come from.

`store` reads and writes weights of any kind, `agent` assembles, exports and loads whole agents, `qwen` imports language
models, and `demo/` holds the shipped agent.
"""

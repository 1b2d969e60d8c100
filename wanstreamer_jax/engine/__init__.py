"""One engine for all who run the agent unit by unit: `stream`, `serve`, `eval` and `bench`."""

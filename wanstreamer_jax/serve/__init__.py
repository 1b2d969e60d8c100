"""The agent at work: a file is streamed through it, people talk with it."""

"""The command line: one module per command, with its parser, its examples and its handler. Imports stay lazy."""

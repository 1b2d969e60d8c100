"""Where weights come from: runs, exports, the shipped demo, and the models of others."""

"""One loop for all stages, what the stages are, and what a run keeps."""

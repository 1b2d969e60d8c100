"""Several devices and several hosts as one job: meshes, where every parameter lives, launching, what a chip can do."""

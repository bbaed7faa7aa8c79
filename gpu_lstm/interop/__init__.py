"""Doors to other libraries, one file each; a library is imported by its own file and nowhere else."""

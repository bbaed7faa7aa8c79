"""Doors to other libraries, a module each; a library is imported by its own module, when that is used."""

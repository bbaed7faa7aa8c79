"""Doors to other libraries, a module each; none imports its library before it is used."""

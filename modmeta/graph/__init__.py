"""Structures: the assignment of modules to the edges and entities of every task."""

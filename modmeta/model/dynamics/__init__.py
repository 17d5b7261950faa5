"""Dynamics: what a structure says of the next frame. An abstract base, and siblings in discrete and continuous time."""

"""Dynamics, which predict the next frame under a structure: an abstract base class, discrete and continuous time."""

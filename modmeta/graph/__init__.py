"""Structures: which module sits in which slot, for every task."""

"""Entities that nobody observed: where they were, and how they are related to those that were seen."""

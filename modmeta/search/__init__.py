"""Search over structures: which receivers change, candidates, their scores, and selection of a candidate.

A *candidate row* of a receiver is one assignment of edge modules to its S incoming edges.
"""

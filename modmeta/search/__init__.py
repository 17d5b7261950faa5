"""Search over structures: which receivers move, what they may take, how it is scored, how one is selected."""

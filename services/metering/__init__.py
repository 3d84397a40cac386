"""Usage: recorded once, rated exactly, relayed to budget."""

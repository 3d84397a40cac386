"""Proofs of the wallet."""

"""Proofs of budget."""

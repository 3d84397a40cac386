"""Proofs of the figures that the services promise; each part measures one of them."""

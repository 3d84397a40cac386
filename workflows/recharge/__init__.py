"""Recharges one wallet once, through every state a payment can take."""

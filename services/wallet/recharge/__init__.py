"""Recharges: when a wallet refills itself, within which caps, and what Stripe says of it.

A room inside the wallet service, with the same file names as the service itself. The ledger's room calls
`store.evaluate` inside every transaction that lowers a balance or ends a block; everything else goes through
`service.RechargeMethods` and the loops of `loops.build`.
"""

"""Prepaid money: wallets, the double-entry ledger, leases granted, recharges."""

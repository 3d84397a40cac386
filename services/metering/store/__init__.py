"""Metering's SQL, and nothing but: `recording` writes, `reports` and `audit` read, `upkeep` is what is around them."""

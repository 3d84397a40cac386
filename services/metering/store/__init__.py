"""Metering's SQL, and nothing but: `recording` writes, `answers` and `audit` read, `upkeep` is what is around them."""

"""The pure rules: `policy` (whether to start), `attempts` (what next), `outcome` (what Stripe's facts mean)."""

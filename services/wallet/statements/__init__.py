"""What the books say to people: statements of a month, and the comparison with Stripe."""

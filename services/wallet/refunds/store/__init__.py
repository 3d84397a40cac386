"""SQL of charges, refunds and disputes; all of it under the lock of the wallet's row."""

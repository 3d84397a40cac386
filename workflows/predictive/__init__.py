"""The PredictiveSweep workflow: looks at wallets that recharge by forecast. What is due, the wallet service starts."""

"""The RechargeCapReview workflow: a cap stopped a recharge, and a person decides. The wallet's row is the truth."""

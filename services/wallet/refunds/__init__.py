"""Money that goes back: refunds that somebody asks for, and disputes that a cardholder's bank decides.

A refund debits the wallet before Stripe is asked, and a failed one puts the money back. A dispute debits when its money
is withdrawn, freezes the wallet, and gives back what is reinstated. Both are moved by level: what Stripe says now
against what the rows say, so that the order and number of events do not matter.
"""

"""The Approval workflow: reminds, escalates, keeps the hold alive, takes the decision. Budget's row is the truth."""

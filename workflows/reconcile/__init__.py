"""The Reconcile and Report workflows: compare the books, and tell people of what they should know before it matters."""

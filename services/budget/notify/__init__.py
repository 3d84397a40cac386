"""Who is told of what: events of every service become deliveries to subscriptions, and workflows carry them."""

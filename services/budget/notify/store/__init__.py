"""SQL of events and deliveries."""

"""What the API does, an endpoint a function: `(work, params, path) -> Answer`, inside one transaction."""

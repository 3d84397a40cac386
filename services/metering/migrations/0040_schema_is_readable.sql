-- migrate:up
-- A process looks whether its database is as new as itself before it starts.
GRANT SELECT ON schema_migrations TO metering_service;

-- migrate:down
REVOKE SELECT ON schema_migrations FROM metering_service;

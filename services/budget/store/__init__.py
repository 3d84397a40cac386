"""Budget's SQL, and nothing but. One module a group of tables; statements take a connection or a pool."""

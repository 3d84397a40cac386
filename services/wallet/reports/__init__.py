"""What the worker's schedules report on: where months end, and what a person should know of before it matters."""

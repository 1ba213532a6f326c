"""HTTP below the API: one exchange, its timing, problem documents, hang-ups, draining."""

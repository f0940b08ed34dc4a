"""One module a backend. Each has `load(path, inputs, outputs, device) -> Engine` and imports its package lazily."""

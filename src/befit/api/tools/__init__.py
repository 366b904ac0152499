"""Tool calls: what a request may ask for, how each model family writes calls, and reading them back as they come."""

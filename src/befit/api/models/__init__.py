"""The models that a server has, by the names that requests ask for."""

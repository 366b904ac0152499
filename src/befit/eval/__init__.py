"""How good a model's answers are: problems with tests, holes in code, the surprise at a text."""

"""The native CPU backend: the C++ core and what drives it."""

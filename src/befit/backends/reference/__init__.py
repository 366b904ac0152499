"""The reference backend: plain NumPy float32, the oracle for every other backend."""

from befit.backends.reference.backend import ReferenceBackend

__all__ = ["ReferenceBackend"]

"""The CUDA backend: a `Program` interpreted with torch and Triton. It runs on a CPU too, as a second oracle.

Importing this package imports no torch; `backend.py` does.
"""

"""Triton kernels, and the functions that launch them. Each has a twin in plain torch in `cuda/ops.py`.

With TRITON_INTERPRET=1 in the environment before the first import they run on a CPU, slowly, one program at a time.
"""

"""Fewer bits a weight: a dense model rounded to 8 or 4 bits, on disk as GGUF or a built folder, or while it is loaded.

`rtn` searches scales, `encode` packs blocks, `folding` and `awq` scale channels by what flows through them, `recipe`
says which tensor gets which format, `gguf_write` writes files, `perplexity` measures, and `convert` does all of it.
"""

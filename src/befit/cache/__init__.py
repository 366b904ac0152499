"""KV memory as arithmetic: a pool of fixed pages, and the index that finds pages of equal prefixes again."""

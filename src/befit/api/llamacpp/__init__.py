"""llama.cpp's own protocol, as its editor extensions speak it: filling in, raw completion, properties."""

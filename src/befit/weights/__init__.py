"""Model files as canonical tensors: `gguf` reads them, `tensor` says what they become, `blocks` decodes them."""

"""The protocol of Hugging Face's Text Generation Inference."""

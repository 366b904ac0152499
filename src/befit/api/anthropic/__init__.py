"""The Messages protocol of Anthropic's API."""

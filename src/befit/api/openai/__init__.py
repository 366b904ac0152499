"""The OpenAI protocol: request fields, routes, the shapes of answers, stream chunks and errors."""

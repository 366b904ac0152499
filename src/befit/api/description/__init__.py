"""What the server says of its routes: the OpenAPI description, its examples and its shapes of errors."""

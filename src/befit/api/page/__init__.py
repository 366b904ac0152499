"""A page to try the server with and one that describes its routes, in plain HTML, CSS and JavaScript."""

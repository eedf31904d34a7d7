"""HTTP as all protocols and the gateway need it: messages, bodies, routes, pages, OpenAPI."""

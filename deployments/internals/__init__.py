"""All that knows private names of Serve, Ray and uvicorn."""

"""A model in the store -> probabilities: `Scorer` in process, `http` over HTTP, `asgi` and `server` for any worker."""

"""The local stack and what a deployment needs."""

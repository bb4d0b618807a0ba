"""What is kept of a version, what is live, and how a service follows it."""

"""How people are told: what, once per episode, through which channel."""

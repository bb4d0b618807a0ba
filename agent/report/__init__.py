"""Pages about what happened: of one alarm, the timeline that led to it and where its cases lie."""

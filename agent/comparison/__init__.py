"""Two data folders compared, without a workspace: the check by which a physicist meets this project."""

"""Where versions look, beside where people marked the finding."""

"""The story that `homeostat demo` tells: generated scanners, the steps, and the page."""

"""Operate: cases, time, disk, people and the plan. The only package that knows the other two."""

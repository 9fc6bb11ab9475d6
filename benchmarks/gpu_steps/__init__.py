"""The steps of a GPU day, which `gpu_day.py` runs.

`check_NAME` returns whether the outcome is as expected, and the outcome in one line. It raises `CouldNotRunError` where
something that it needs isn't here; any other error is not as expected.
"""

"""Figures: functions that draw on `ax` and return it."""

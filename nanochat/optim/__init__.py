"""Muon and AdamW: arithmetic, parameter groups, schedules."""

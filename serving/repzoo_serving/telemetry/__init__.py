"""Metrics, traces, timings and logs."""

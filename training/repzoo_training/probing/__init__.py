"""Classifiers on a frozen encoder, fitted to a user's own labels."""

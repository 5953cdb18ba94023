"""Data: built-in sets, uploaded files, image sets on the device."""

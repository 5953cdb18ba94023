"""Pictures and animations of terrain and floods."""

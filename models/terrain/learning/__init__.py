"""The net that coarsens terrain, and its training through the flood."""

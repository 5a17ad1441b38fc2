"""The commands, one file each: they read options and print, and hold no other logic."""

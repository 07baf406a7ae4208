"""Measuring what Vidette does: loads, clocks, arithmetic and reports. The commands are in `app.commands`."""

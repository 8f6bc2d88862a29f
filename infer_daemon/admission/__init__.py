"""May it enter: limits of tenants, models and the daemon, reserved on the way in."""

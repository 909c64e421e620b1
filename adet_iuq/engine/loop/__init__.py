"""The training loop: steps, schedules, guards, metrics and what a resumed run needs."""

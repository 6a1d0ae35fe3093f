"""What does the replay cost? Commands that measure it beside what a user would run instead."""

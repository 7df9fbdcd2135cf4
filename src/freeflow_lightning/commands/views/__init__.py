"""What is shown of what was measured, found or made: tables, pages, progress."""

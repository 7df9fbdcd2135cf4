"""What the commands show: tables, pages, progress."""

"""What the objects that tasks return show of themselves: on screen, as Markdown, in a page."""

"""What any run needs: data, optimizer, strategies, files."""

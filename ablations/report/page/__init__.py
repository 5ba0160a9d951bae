"""What the HTML page is made of: safe markup, curves, style and script."""

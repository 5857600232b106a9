"""What people and their tools read of results: Markdown, JUnit, OpenMetrics, HTML. Values in, text out."""

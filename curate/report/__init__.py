"""What people and their tools read of results: Markdown, JUnit, OpenMetrics. Values in, text out."""

"""What the data is: every column, table and identity, declared once. Imports nothing of ours."""

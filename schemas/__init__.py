"""What the data is: every column, table, identity and manifest, declared once. Imports nothing of ours."""

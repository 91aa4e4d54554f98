"""The command line: a table of verbs (`verbs`), the way from argv to a stage (`main`), and the doctor."""

"""How the schema came to be: one script a step, run by `proxy.database.schema` and by nobody else."""

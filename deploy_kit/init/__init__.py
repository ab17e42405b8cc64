"""A recipe and a workflow for a model that is not checked yet."""

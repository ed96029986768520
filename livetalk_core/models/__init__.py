"""The networks: shapes in, shapes out."""

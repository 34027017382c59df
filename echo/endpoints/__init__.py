"""The endpoints: where HTTP and the data meet."""

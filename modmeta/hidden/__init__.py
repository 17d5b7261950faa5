"""Hidden entities: infers their number, their states and their relations to the observed entities."""

"""Networks that several notebooks share. They know nothing of data sets."""

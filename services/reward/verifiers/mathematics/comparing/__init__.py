"""Whether two answers that have been read are equal, for each kind of answer."""

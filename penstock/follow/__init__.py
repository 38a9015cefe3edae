"""Follow the log and the channel of a record without gaps, for streams and jobs alike."""

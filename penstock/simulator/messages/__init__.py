"""Messages: requests checked as the API checks them, and answers composed and streamed."""

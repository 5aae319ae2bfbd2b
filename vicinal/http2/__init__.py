"""What both ends of our own HTTP/2 use: frames, and fields as they stand on the wire."""

"""gRPC over HTTP/2 (RFC 9113, RFC 7541, gRPC's PROTOCOL-HTTP2) on asyncio, for plain-text ports; docs/adr says why."""

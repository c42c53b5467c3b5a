"""What goes wrong without the protocol's parts: the variants that the failure-mode suite and
`jobq demo --naive` hold beside jobq. Nothing here is public API."""

"""What runs inside the sandbox: never imported, only handed to the sandbox's own interpreter."""

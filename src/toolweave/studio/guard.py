"""Who may ask: users by a signed cookie or HTTP Basic, and no page of another site."""

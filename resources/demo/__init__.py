"""Demo matter: the tiny trio, the closed world it lives in, and the chats of the real demo pair."""

"""The page, the overlays and the words of an inspection."""

"""HTTP/1.1 for GET and HEAD on asyncio: strict, bounded, and ignorant of what it serves."""

"""What people wrote, as numbers and labels: text to vectors, vectors to intents. No store in it; importing it loads no torch."""

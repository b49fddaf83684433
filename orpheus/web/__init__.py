"""The page at `/`: static files, sent as they are. `orpheus/speech/page.py` serves them; `app.js` is where to begin."""

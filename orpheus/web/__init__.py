"""The page at `/`: static files, served by `orpheus/server/page.py`. Start reading at `app.js`."""

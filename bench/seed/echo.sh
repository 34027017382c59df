python -m http.server 8000

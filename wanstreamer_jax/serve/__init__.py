"""The agent at work: a media file is streamed through it, and people talk with it live.

A file: `stream_file` runs the engine over it; `session_log` (units.jsonl, captions), `timeline` and `film` are what it
writes; `preview` does the same with a scripted agent of duplex_world.

The live service, from the browser to the engine: `page/` is the browser's side of `protocol`. `server` holds the HTTP
routes. `connection` is one client's WebSocket, with `hello` (what it asks for), `inbox` (what it sends, as units),
`outbox` (what it is sent), `frame_codec`, `rate_limit`, `echo` and, if asked for, `webrtc`. `scheduler` is the clock
that steps all sessions; their users come from a `unit_source`: an inbox or a `watched_user`. `recording`, `restart` and
`prometheus` keep what outlasts a session, a process and a unit.

Clients in Python: `client` speaks the protocol; `stream_live` streams a file with it.
"""

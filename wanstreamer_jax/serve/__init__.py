"""Runs the agent: on a media file, or live with people who talk to it in a browser.

For a file, `stream_file` runs the engine; `session_log` (units.jsonl, captions), `timeline` and `film` write its
outputs. `preview` does the same with a scripted agent of duplex_world.

The live service, from the browser to the engine: `page/` is the browser's side of `protocol`. `server` holds the HTTP
routes. `connection` is one client's WebSocket, with `hello` (what it asks for), `inbox` (what it sends, as units),
`outbox` (what it is sent), `frame_codec`, `rate_limit`, `echo` and, if asked for, `webrtc`. `scheduler` is the clock
that steps all sessions; their users come from a `unit_source`: an inbox or a `watched_user`. `recording` saves a
session for its user, `restart` keeps sessions over a restart, and `prometheus` counts.

Clients in Python: `client` speaks the protocol; `stream_live` streams a file with it.

Modules:
    client.py         A client of the wire protocol, used by `wanstreamer client` and `bench serve`
    connection.py     One client's WebSocket, from its hello to its end
    echo.py           Measures how much of the agent's voice returns through the user's microphone
    film.py           Draws the video of a conversation: both sides, captions, a ring around the speaker
    frame_codec.py    Encodes and decodes live video: JPEG frame by frame, or VP8 where supported
    hello.py          Reads a client's hello: who the agent is, and how the session is generated
    inbox.py          Cuts a client's audio, video and text into units
    outbox.py         The queue of messages to one client
    preview.py        `wanstreamer data preview`: a session of duplex_world, for people to watch
    prometheus.py     What Prometheus reads at /metrics: latency by phase, units, sessions, slots, memory
    protocol.py       Packs and parses the messages of the live service, protocol version 2
    rate_limit.py     How much a client may send: a token bucket, which refills steadily and allows bursts
    recording.py      Records a live session, if its user asked for it, as one ZIP file
    restart.py        Saves all running sessions in one folder before a planned restart, and restores them
    scheduler.py      The scheduler: one clock and one engine step for all slots
    server.py         The live service: one HTTP server for page, WebSocket, recordings, health and metrics
    session_log.py    Writes units.jsonl and captions, from which the timeline and the film are drawn
    stream_file.py    Streams a media file through an engine and writes the agent's answer: the main job
    stream_live.py    `wanstreamer client`: streams a media file to a live server and saves the answer
    timeline.py       Draws the timeline of a session: waveforms, captions, speakers, phases of every unit
    unit_source.py    Sources of user units: the network (`inbox.py`) or a simulated user
    watched_user.py   Simulated users for viewers to watch: they talk with the agent one after another
    webrtc.py         Audio and video over WebRTC (the extra `webrtc`)
"""

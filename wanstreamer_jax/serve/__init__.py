"""The agent at work: a media file is streamed through it, and people talk with it live.

A file: `stream_file` runs the engine over it; `session_log` (units.jsonl, captions), `timeline` and `film` are what it
writes; `preview` does the same with a scripted agent of duplex_world.

The live service, from the browser to the engine: `page/` is the browser's side of `protocol`. `server` holds the HTTP
routes. `connection` is one client's WebSocket, with `hello` (what it asks for), `inbox` (what it sends, as units),
`outbox` (what it is sent), `frame_codec`, `rate_limit`, `echo` and, if asked for, `webrtc`. `scheduler` is the clock
that steps all sessions; their users come from a `unit_source`: an inbox or a `watched_user`. `recording`, `restart` and
`prometheus` keep what outlasts a session, a process and a unit.

Clients in Python: `client` speaks the protocol; `stream_live` streams a file with it.

Modules:
    client.py         A client of the live service's wire protocol: `wanstreamer client` and `wanstreamer bench ...
    connection.py     One client's WebSocket, which speaks `protocol.py`, from its hello to its end
    echo.py           How much of the agent's speech comes back through the user's microphone
    film.py           The film of a conversation: both sides beside each other, with captions and a ring around ...
    frame_codec.py    Video of a live conversation on the wire: every frame by itself as JPEG, or VP8 where the ...
    hello.py          What a client asks for in its hello: who the agent is and how the session is generated
    inbox.py          A client's audio, video and text, cut into units: a jitter buffer between the network and ...
    outbox.py         What waits to be sent to one client
    preview.py        `wanstreamer data preview`: a session of duplex_world, for people to watch
    prometheus.py     What Prometheus reads at /metrics: latency by phase, units, sessions, slots, memory
    protocol.py       The wire protocol of the live service, version 2, as `docs/protocol.md` describes it
    rate_limit.py     How much a client may send: a token bucket, which refills steadily and allows bursts
    recording.py      A live session on disk, for the user who asked for it: both sides' video, captions and ...
    restart.py        What a planned restart keeps: all running sessions, in one folder
    scheduler.py      The scheduler: one clock, one engine step for all slots; sessions join and leave between units
    server.py         The live service: an HTTP server with the page, a WebSocket for conversations, recordings ...
    session_log.py    The written record of a session: units.jsonl and captions, from which the timeline and the ...
    stream_file.py    The main job: stream a media file through an engine and write what the agent answered
    stream_live.py    `wanstreamer client`: streams a media file to a live server in real time and saves the answer
    timeline.py       The timeline: both waveforms, captions, who speaks, and the phases of every unit of a ...
    unit_source.py    Where the user's units come from: the network (`inbox.py`) or a simulated user ...
    watched_user.py   Simulated users for viewers to watch: people of duplex_world talk with the agent, one after ...
    webrtc.py         Audio and video over WebRTC (the extra `webrtc`); text stays on the WebSocket, which also ...
"""

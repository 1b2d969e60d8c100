// One conversation: connects capture, playback and the messages of the server with what the page shows.

import {Capture, now} from "./capture.js";
import {Playback} from "./playback.js";
import {unpack} from "./protocol.js";

const $ = (id) => document.getElementById(id);
const ECHO_SECONDS = 5;  // after which a measured echo is forgotten: while there is one, it is measured every 10 units
const LOUD_ECHO = -30;  // dB, above which headphones are recommended
const CAPTION_PIECES = 12, CAPTION_MS = 2500;
const MAX_UNITS = 50;  // whose messages wait for their audio to be heard
const ICE_MS = 2000;  // to gather candidates
const PHASES = ["perceive", "think", "perform", "render"];  // between the user's unit and the answer

export class Conversation {
  // warn(text) shows a warning, "" removes it; onended(message): the server ended it.
  constructor(welcome, socket, {warn, onended}) {
    Object.assign(this, {welcome, socket, warn, onended, units: new Map(), late: 0, count: 0});
    this.roundTrip = this.latency = this.flushTime = null;  // seconds
  }

  // stream: of microphone and camera, or null for a viewer.
  async begin(stream) {
    this.context = new AudioContext({sampleRate: this.welcome.sample_rate});
    await this.context.audioWorklet.addModule("/page/worklets.js");
    await this.startContext();
    const canvases = {agent: $("agent"), user: $("watched")};
    const playback = this.playback = new Playback(this.context, this.welcome, canvases);
    playback.onheard = (time) => this.onHeard(time);
    playback.onflushed = () => { this.flushTime = now() - this.interruptedAt; };
    await playback.start(Boolean(stream));
    this.capture = new Capture(this.context, this.welcome, () => this.socket, $("self"));
    if (stream && new URLSearchParams(location.search).has("webrtc")) await this.connectWebRTC(stream);
    else if (stream) this.capture.start(stream);
    this.pinging = setInterval(() => { this.say({type: "ping", time: now()}); playback.measureLoop(); }, 1000);
    this.showing = setInterval(() => this.showFigures(), 500);
  }

  // Some browsers start audio only during a click, and that click is over by now.
  async startContext() {
    await Promise.race([this.context.resume(), new Promise((resolve) => setTimeout(resolve, 1000))]);
    if (this.context.state === "running") return;
    this.warn("Click or touch the page to hear the agent.");
    const resume = () => this.context.resume().then(() => this.warn("")).catch(() => {});
    addEventListener("pointerdown", resume, {once: true});
  }

  // Moves audio and video to WebRTC, for networks that lose packets; text stays on the socket.
  async connectWebRTC(stream) {
    this.peer?.close();  // of the connection that broke
    const peer = this.peer = new RTCPeerConnection(), video = $("remote");
    video.srcObject = null;
    for (const track of stream.getTracks()) peer.addTrack(track, stream);
    if (!stream.getVideoTracks().length) peer.addTransceiver("video", {direction: "recvonly"});
    peer.ontrack = ({track}) => {
      video.srcObject ??= new MediaStream();
      video.srcObject.addTrack(track);
      video.hidden = false;
      $("agent").hidden = true;
    };
    $("self").srcObject = stream;
    $("self").hidden = false;
    await peer.setLocalDescription();
    await new Promise((resolve) => {
      const check = () => peer.iceGatheringState === "complete" && resolve();
      peer.onicegatheringstatechange = check;
      setTimeout(resolve, ICE_MS);
      check();
    });
    if (peer === this.peer) this.say({type: "offer", sdp: peer.localDescription.sdp});
  }

  // Continues the session over another socket. Rejects when WebRTC cannot be set up again.
  async reconnect(socket, welcome, stream) {
    Object.assign(this, {socket, welcome});
    this.capture.restart();
    if (this.peer) await this.connectWebRTC(stream);
  }

  mute(muted) { this.capture.muted = muted; }

  say(value) { if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(value)); }

  // Handles a message of the server.
  receive(data) {
    if (typeof data !== "string") { this.playback.receive(unpack(data)); return; }
    const value = JSON.parse(data);
    if (value.type === "unit") this.onUnit(value);
    else if (value.type === "interrupted") this.onInterrupted();
    else if (value.type === "echo") this.onEcho(value.level_db);
    else if (value.type === "answer") this.peer.setRemoteDescription({type: "answer", sdp: value.sdp});
    else if (value.type === "pong") this.roundTrip = now() - value.time;
    else if (value.type === "draining") this.onDraining(value.seconds);
    else if (value.type === "ended" || value.type === "error") this.onended(value.message);
  }

  onUnit(unit) {
    if (this.units.size > MAX_UNITS) this.units.clear();
    this.units.set(unit.unit, unit);
    this.last = unit;
    this.count++;
    this.late += unit.late;
    $("stage").classList.toggle("speaking", unit.speaking);
    $("turn").textContent = unit.speaking ? "speaking" : "listening";
    if (unit.text) this.caption(unit.text);
  }

  onInterrupted() {
    this.interruptedAt = now();
    this.playback.flush();
  }

  onEcho(level) {
    Object.assign(this, {echo: level, echoAt: now()});
    if (level <= LOUD_ECHO || this.warned) return;
    this.warned = true;
    this.warn("The agent hears itself through your microphone: headphones help.");
  }

  onDraining(seconds) {
    const rest = seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} minutes`;
    this.warn(`The server stops in ${rest}.`);
  }

  // Session time of the audio that is heard now; its unit has reached the user.
  onHeard(time) {
    const unit = this.units.get(Math.floor(time / (this.welcome.unit_ms / 1000)));
    if (!unit) return;
    if (unit.captured !== null) this.latency = now() - unit.captured;
    for (const number of this.units.keys()) if (number <= unit.unit) this.units.delete(number);
  }

  // Only new text is added: screen readers would read replaced text again.
  caption(text) {
    const line = $("caption");
    for (const piece of text.split(/(?= )/)) {
      const directive = /^ ?[(<]/.test(piece);
      if (piece.startsWith(" ") || !line.lastChild) line.append(document.createElement(directive ? "i" : "span"));
      line.lastChild.append(piece);
    }
    while (line.childElementCount > CAPTION_PIECES) line.firstChild.remove();
    clearTimeout(this.fading);
    this.fading = setTimeout(() => line.replaceChildren(), CAPTION_MS);
  }

  showFigures() {
    const {playback, last} = this, {offset, waiting, underruns} = playback;
    const ms = (seconds) => (seconds === null ? "–" : `${Math.round(1000 * seconds)} ms`);
    const rows = [
      ["signal to signal", ms(this.latency)],
      ...(last ? PHASES.map((phase) => [phase, `${last[phase + "_ms"].toFixed(1)} ms`]) : []),
      ["round trip", ms(this.roundTrip)], ["video - audio", ms(offset)], ["buffer", ms(waiting)],
      ["late units", `${this.late} of ${this.count}`], ["gaps", `${underruns}`],
      ["echo", now() - this.echoAt < ECHO_SECONDS ? `${this.echo} dB` : "none"],
    ];
    $("figures").replaceChildren(...rows.flatMap(([name, value]) => {
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      [term.textContent, text.textContent] = [name, value];
      return [term, text];
    }));
    const caption = $("caption").textContent.trim();
    window.figures = {
      latency: this.latency, offset, late: this.late, units: this.count, underruns, waiting, flush: this.flushTime, caption,
    };  // for tests
  }

  end() {
    for (const timer of [this.pinging, this.showing]) clearInterval(timer);
    clearTimeout(this.fading);
    $("caption").replaceChildren();
    this.capture?.stop();
    this.playback?.stop();
    this.peer?.close();
    this.socket.close();
    this.context?.close();
  }
}

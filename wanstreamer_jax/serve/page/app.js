// One conversation: microphone and camera to the server, the agent's sound, pictures and words back (docs/protocol.md).

const $ = (id) => document.getElementById(id);
const VERSION = 1, SOUND = 1, JPEG = 2, VP8 = 3, HEADER = 16, KEY = 1, USERS = 2;
const ECHO_LASTS = 5;  // seconds: while there is one, the server measures it every 10 units
const now = () => performance.now() / 1000;

let live = null;  // the running conversation
let starting = false;
let knowsVP8 = false;  // else pictures are JPEG

async function askCodecs() {
  const found = "VideoEncoder" in window && (await VideoEncoder.isConfigSupported({codec: "vp8", width: 64, height: 64})).supported;
  knowsVP8 = Boolean(found) && !new URLSearchParams(location.search).has("jpeg");
}
askCodecs().catch(() => {});

class Conversation {
  constructor(welcome, socket) {
    Object.assign(this, {welcome, socket, pictures: [], units: new Map(), late: 0, count: 0, underruns: 0});
    this.peers = [];  // of the loop through which the sound is played
    this.decoders = [null, null];  // of the agent's and the user's pictures
    this.peer = null;  // of WebRTC
    this.roundTrip = this.latency = this.offset = this.waiting = this.flush = null;
  }

  async begin(stream) {
    this.context = new AudioContext({sampleRate: this.welcome.sample_rate});
    await this.context.audioWorklet.addModule("/page/worklets.js");
    await Promise.race([this.context.resume(), new Promise((resolve) => setTimeout(resolve, 1000))]);
    if (this.context.state !== "running") {  // some browsers begin sound in the moment of a click only, which is over
      trouble("Click or touch the page to hear the agent.");
      addEventListener("pointerdown", () => this.context.resume().then(() => trouble("")).catch(() => {}), {once: true});
    }
    const unit = this.welcome.unit_ms / 1000;
    this.playout = new AudioWorkletNode(this.context, "playout", {numberOfInputs: 0, outputChannelCount: [1], processorOptions: {unit}});
    this.playout.port.onmessage = ({data}) => this.played(data);
    if (stream) await this.speaker(this.playout);
    else this.playout.connect(this.context.destination);  // nobody listens, so nothing has to be cancelled
    if (stream && new URLSearchParams(location.search).has("webrtc")) await this.connect(stream);
    else {
      if (stream?.getAudioTracks().length) this.listen(stream);
      if (stream?.getVideoTracks().length) this.look(stream);
    }
    this.pinging = setInterval(() => { this.say({type: "ping", time: now()}); this.measureLoop(); }, 1000);
    this.showing = setInterval(() => showFigures(this), 500);
  }

  // Sound and pictures over WebRTC; words stay on the socket. For networks that lose packets.
  async connect(stream) {
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
      const done = () => peer.iceGatheringState === "complete" && resolve();
      peer.onicegatheringstatechange = done;
      setTimeout(resolve, 2000);
      done();
    });
    if (peer === this.peer) this.say({type: "offer", sdp: peer.localDescription.sdp});
  }

  // Browsers cancel the echo of what comes from a peer connection only, so the sound takes a loop through one.
  async speaker(node) {
    const target = this.context.createMediaStreamDestination();
    node.connect(target);
    const [near, far] = [new RTCPeerConnection(), new RTCPeerConnection()];
    this.peers.push(near, far);
    near.onicecandidate = ({candidate}) => candidate && far.addIceCandidate(candidate);
    far.onicecandidate = ({candidate}) => candidate && near.addIceCandidate(candidate);
    const sound = new Audio();
    const connected = new Promise((resolve) => {
      far.ontrack = ({streams}) => { sound.srcObject = streams[0]; };
      far.onconnectionstatechange = () => {
        if (far.connectionState === "connected") resolve(true);
        if (far.connectionState === "failed") node.connect(this.context.destination);  // the network changed
      };
      setTimeout(() => resolve(false), 1500);
    });
    near.addTrack(target.stream.getAudioTracks()[0], target.stream);
    await near.setLocalDescription();
    await far.setRemoteDescription(near.localDescription);
    await far.setLocalDescription();
    await near.setRemoteDescription(far.localDescription);
    const played = (await connected) && (await sound.play().then(() => true, () => false));
    if (!played) node.connect(this.context.destination);  // no loop here: headphones help
    this.sound = sound;
    if (played) this.far = far;
  }

  // How long the sound takes behind the worklet: through the loop and out of the machine.
  async measureLoop() {
    let loop = this.context.outputLatency || 0;
    for (const report of this.far ? (await this.far.getStats()).values() : []) {
      if (report.type !== "inbound-rtp" || report.kind !== "audio") continue;
      const [delay, count] = [report.jitterBufferDelay, report.jitterBufferEmittedCount];
      if (this.emitted !== undefined && count > this.emitted) loop += (delay - this.delayed) / (count - this.emitted);
      [this.delayed, this.emitted] = [delay, count];
    }
    this.loop = loop;
  }

  listen(stream) {
    this.capture = new AudioWorkletNode(this.context, "capture", {numberOfOutputs: 0});
    this.context.createMediaStreamSource(stream).connect(this.capture);
    let clock = null;
    this.capture.port.onmessage = ({data}) => {
      const length = data.length / this.welcome.sample_rate, arrived = now() - length;
      clock = clock === null || Math.abs(arrived - clock) > 0.05 ? arrived : clock;
      if (!this.muted && this.socket.bufferedAmount < 100000) this.send(SOUND, clock, Int16Array.from(data, (x) => 32767 * Math.max(-1, Math.min(1, x))).buffer);
      clock += length;
    };
  }

  look(stream) {
    const video = $("self"), {width, height, fps} = this.welcome;
    video.srcObject = stream;
    video.hidden = false;
    const canvas = new OffscreenCanvas(width, height), brush = canvas.getContext("2d");
    if (knowsVP8) this.encoder = this.makeEncoder(width, height, fps);
    let count = 0;
    this.looking = setInterval(async () => {
      if (video.readyState < 2 || this.socket.bufferedAmount > 65536) return;
      const time = now(), scale = Math.max(width / video.videoWidth, height / video.videoHeight);
      const w = video.videoWidth * scale, h = video.videoHeight * scale;
      brush.drawImage(video, (width - w) / 2, (height - h) / 2, w, h);
      if (this.encoder) {
        if (this.encoder.encodeQueueSize > 2) return;
        const frame = new VideoFrame(canvas, {timestamp: Math.round(1e6 * time)});
        this.encoder.encode(frame, {keyFrame: this.fresh || count++ % (10 * fps) === 0});
        this.fresh = false;
        frame.close();
      } else {
        const blob = await canvas.convertToBlob({type: "image/jpeg", quality: 0.85});
        this.send(JPEG, time, await blob.arrayBuffer());
      }
    }, 1000 / fps);
  }

  makeEncoder(width, height, framerate) {
    const output = (chunk) => {
      const data = new ArrayBuffer(chunk.byteLength);
      chunk.copyTo(data);
      this.send(VP8, chunk.timestamp / 1e6, data, chunk.type === "key" ? KEY : 0);
    };
    const encoder = new VideoEncoder({output, error: () => { this.encoder = null; }});  // JPEG from then on
    encoder.configure({codec: "vp8", width, height, framerate, bitrate: 4 * width * height + 64000, latencyMode: "realtime"});
    return encoder;
  }

  makeDecoder(users) {
    const output = (picture) => this.pictures.push({picture, time: picture.timestamp / 1e6, users});
    const decoder = new VideoDecoder({output, error: () => { this.decoders[Number(users)] = null; }});
    decoder.configure({codec: "vp8", optimizeForLatency: true});
    return decoder;
  }

  say(value) { if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(value)); }

  send(kind, time, payload, flags = KEY) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    const message = new ArrayBuffer(HEADER + payload.byteLength), view = new DataView(message);
    view.setUint8(0, kind);
    view.setUint8(1, flags);
    view.setFloat64(8, time, true);
    new Uint8Array(message, HEADER).set(new Uint8Array(payload));
    this.socket.send(message);
  }

  media(message) {
    const view = new DataView(message), kind = view.getUint8(0), time = view.getFloat64(8, true);
    const users = (view.getUint8(1) & USERS) !== 0;
    if (kind === SOUND) {
      const samples = Float32Array.from(new Int16Array(message, HEADER), (x) => x / 32768);
      if (users) { this.beside = samples; return; }  // the one who is watched; the agent's sound of that time follows
      if (this.beside) samples.forEach((x, i) => { samples[i] = x + this.beside[i]; });
      this.playout.port.postMessage({samples, time}, [samples.buffer]);
    } else if (kind === JPEG) {
      const blob = new Blob([new Uint8Array(message, HEADER)], {type: "image/jpeg"});
      createImageBitmap(blob).then((picture) => this.pictures.push({picture, time, users})).catch(() => {});
    } else if (kind === VP8) {
      const key = (view.getUint8(1) & KEY) !== 0, index = Number(users);
      if (key) this.decoders[index] ??= this.makeDecoder(users);
      const chunk = {type: key ? "key" : "delta", timestamp: Math.round(1e6 * time), data: new Uint8Array(message, HEADER)};
      this.decoders[index]?.decode(new EncodedVideoChunk(chunk));
    }
  }

  hear(value) {
    if (value.type === "unit") {
      if (this.units.size > 50) this.units.clear();
      this.units.set(value.unit, value);
      this.last = value;
      this.count++;
      this.late += value.late;
      $("stage").classList.toggle("speaking", value.speaking);
      $("turn").textContent = value.speaking ? "speaking" : "listening";
      if (value.text) this.caption(value.text);
    } else if (value.type === "quiet") {
      this.quietAt = now();
      if (!this.beside) this.playout.port.postMessage("flush");
    } else if (value.type === "echo") {
      Object.assign(this, {echo: value.level_db, echoAt: now()});
      if (value.level_db > -30 && !this.warned) {
        this.warned = true;
        trouble("The agent hears itself through your microphone: headphones help.");
      }
    } else if (value.type === "answer") {
      this.peer.setRemoteDescription({type: "answer", sdp: value.sdp});
    } else if (value.type === "pong") {
      this.roundTrip = now() - value.time;
    } else if (value.type === "draining") {
      const {seconds} = value, rest = seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} minutes`;
      trouble(`The server goes down in ${rest}.`);
    } else if (value.type === "ended" || value.type === "error") {
      finish(value.message);
    }
  }

  // Only what is new is added: screen readers would read what is replaced again.
  caption(text) {
    const line = $("caption");
    for (const piece of text.split(/(?= )/)) {
      if (piece.startsWith(" ") || !line.lastChild) line.append(document.createElement(/^ ?[(<]/.test(piece) ? "i" : "span"));
      line.lastChild.append(piece);
    }
    while (line.childElementCount > 12) line.firstChild.remove();
    clearTimeout(this.fading);
    this.fading = setTimeout(() => line.replaceChildren(), 2500);
  }

  // The audio clock leads: pictures are shown when their time is heard.
  played({time: rendered, waiting, underrun, flushed}) {
    const time = rendered - (this.loop ?? 0);
    if (flushed) { this.flush = now() - this.quietAt; return; }
    if (underrun) { this.underruns++; return; }
    this.waiting = waiting;
    while (this.pictures.length > 100) this.pictures.shift().picture.close();
    const due = this.pictures.filter((item) => item.time <= time + 0.005);
    this.pictures = this.pictures.filter((item) => item.time > time + 0.005);
    for (const users of [false, true]) {
      const {picture, time: shown} = due.findLast((item) => item.users === users) ?? {};
      if (!picture) continue;
      const canvas = $(users ? "watched" : "agent");
      const [width, height] = [picture.displayWidth ?? picture.width, picture.displayHeight ?? picture.height];
      if (canvas.width !== width || canvas.height !== height) resize(canvas, width, height);
      canvas.getContext("2d").drawImage(picture, 0, 0);
      canvas.hidden = false;
      if (!users) this.offset = shown - time;
    }
    for (const {picture} of due) picture.close();
    const unit = this.units.get(Math.floor(time / (this.welcome.unit_ms / 1000)));
    if (unit) {
      if (unit.heard !== null) this.latency = now() - unit.heard;
      for (const number of this.units.keys()) if (number <= unit.unit) this.units.delete(number);
    }
  }

  end() {
    for (const {picture} of this.pictures) picture.close();
    this.pictures = [];
    for (const timer of [this.pinging, this.showing, this.looking]) clearInterval(timer);
    clearTimeout(this.fading);
    $("caption").replaceChildren();
    for (const peer of this.peers) peer.close();
    this.peer?.close();
    for (const codec of [this.encoder, ...this.decoders]) if (codec?.state === "configured") codec.close();
    this.socket.close();
    this.context?.close();
  }
}

function showFigures(c) {
  const ms = (seconds) => (seconds === null ? "–" : `${Math.round(1000 * seconds)} ms`);
  const phases = c.last ? ["perceive", "think", "perform", "render"].map((p) => [p, `${c.last[p + "_ms"].toFixed(1)} ms`]) : [];
  const rows = [["signal to signal", ms(c.latency)], ...phases, ["round trip", ms(c.roundTrip)], ["picture - sound", ms(c.offset)],
    ["buffer", ms(c.waiting)], ["late units", `${c.late} of ${c.count}`], ["gaps", `${c.underruns}`],
    ["echo", now() - c.echoAt < ECHO_LASTS ? `${c.echo} dB` : "none"]];
  $("figures").replaceChildren(...rows.flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, text.textContent] = [name, value];
    return [term, text];
  }));
  window.figures = {latency: c.latency, offset: c.offset, late: c.late, units: c.count, underruns: c.underruns, waiting: c.waiting,
    flush: c.flush, caption: $("caption").textContent.trim()};
}

const TROUBLE = {
  NotAllowedError: "The browser was not allowed to use your camera and microphone. Allow them beside the address, or watch.",
  NotFoundError: "No camera or microphone was found. Plug one in, or watch.",
  NotReadableError: "Another program is using your camera or microphone. Close it and try again.",
};

async function devices() {
  const audio = {echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1};
  try {
    return await navigator.mediaDevices.getUserMedia({audio, video: {width: 640, height: 480, frameRate: 25}});
  } catch (error) {
    if (error.name !== "NotFoundError") throw error;
    return navigator.mediaDevices.getUserMedia({audio});  // a microphone alone will do
  }
}

function pictureKinds() { return knowsVP8 ? ["vp8", "jpeg"] : ["jpeg"]; }

// A photo as small as the server wants it.
async function shrunk(file) {
  const photo = await createImageBitmap(file), scale = Math.min(1, 512 / Math.max(photo.width, photo.height));
  const canvas = new OffscreenCanvas(Math.max(1, photo.width * scale), Math.max(1, photo.height * scale));
  canvas.getContext("2d").drawImage(photo, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({type: "image/jpeg", quality: 0.9});
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

async function hello(form, watch) {
  const data = new FormData(form), fields = {}, world = {};
  for (const name of ["name", "home", "likes"]) if (data.get(name)) fields[name] = data.get(name);
  if (Object.keys(fields).length) world.fields = fields;
  if (data.get("portrait")?.size) world.portrait = await base64(await shrunk(data.get("portrait")));
  if (data.get("voice")?.size > 600000) throw new Error("The voice sample is too large: at most 600 kB.");
  if (data.get("voice")?.size) world.voice = await base64(data.get("voice"));
  return {type: "hello", version: VERSION, world, watch, record: data.has("record"), pictures: pictureKinds()};
}

// An address of the server with what this page's own says. A balancer finds the pod of a conversation by its `visit`.
function at(path, visit) {
  const address = new URL(path + location.search, location.href);
  address.searchParams.set("visit", visit);
  return address;
}

// A place on a pod; a full one is not the only one, perhaps.
async function place(first) {
  for (let tries = 3; ; tries--) {
    const visit = crypto.randomUUID();
    try {
      return {visit, ...await open(first, visit)};
    } catch (error) {
      if (!error.full || tries === 1) throw error;
    }
  }
}

function open(first, visit) {
  const address = at("/live", visit);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  return new Promise((resolve, reject) => {
    socket.onopen = () => socket.send(JSON.stringify(first));
    socket.onerror = () => reject(new Error("The server cannot be reached, or does not let this page in."));
    socket.onclose = () => reject(new Error("The server ended the connection."));
    socket.onmessage = ({data}) => {
      const value = JSON.parse(data);
      if (value.type === "welcome") resolve({socket, welcome: value});
      else reject(Object.assign(new Error(value.message ?? "The server did not understand this page."), {final: true, full: value.type === "full"}));
    };
  });
}

async function start(form, talk) {
  if (starting) return;
  if (!isSecureContext) return trouble("Browsers give sound and camera to https pages and to this machine's own address only.");
  starting = true;
  say("connecting …");
  trouble("");
  let stream = null, conversation = null;
  try {
    if (talk) stream = await devices();
    const first = await hello(form, !talk), {socket, welcome, visit} = await place(first);
    conversation = new Conversation(welcome, socket);
    Object.assign(conversation, {stream, visit, recorded: first.record, muted: false});
    $("mute").setAttribute("aria-pressed", "false");
    $("download").hidden = true;
    const early = [];
    socket.onmessage = ({data}) => early.push(data);
    await conversation.begin(stream);
    if (socket.readyState !== WebSocket.OPEN) throw new Error("The server ended the connection.");
    live = conversation;
    attach(socket);
    early.forEach(handle);
    if (!live) return;
    live.state = talk ? "live" : "live, watching";
    say(live.state);
    [$("before").hidden, $("during").hidden, $("mute").hidden] = [true, false, !talk];
    $(matchMedia("(pointer: fine)").matches ? "typed" : "stop").focus();  // no keyboard over the picture of a phone
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop());
    conversation?.end();
    say("not connected");
    trouble((stream || !talk ? null : TROUBLE[error.name]) ?? error.message);
  } finally {
    starting = false;
  }
}

function handle(data) { typeof data === "string" ? live?.hear(JSON.parse(data)) : live?.media(data); }

function attach(socket) {
  socket.onmessage = ({data}) => handle(data);
  socket.onclose = comeBack;
}

// The connection broke, or the server restarts: it keeps the place for 30 s.
async function comeBack() {
  const lost = live, deadline = now() + 30;
  while (lost && live === lost && now() < deadline) {
    say("connection lost, trying again …");
    try {
      const {socket} = await open({type: "hello", version: VERSION, session: lost.welcome.session, pictures: pictureKinds()}, lost.visit);
      if (live !== lost) return socket.close();
      lost.socket = socket;
      lost.fresh = true;
      attach(socket);
      const failed = (error) => live === lost && lost.socket === socket && finish(error.message);
      if (lost.peer) lost.connect(lost.stream).catch(failed);
      return say(lost.state);
    } catch (error) {
      if (error.final) return finish(error.message);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  if (lost && live === lost) finish("The connection was lost.");
}

function finish(message) {
  if (!live) return;
  const {stream, socket, recorded, welcome, visit} = live;
  socket.onclose = null;
  live.end();
  stream?.getTracks().forEach((track) => track.stop());
  live = null;
  $("self").hidden = $("watched").hidden = $("remote").hidden = true;
  $("agent").hidden = false;
  $("remote").srcObject = null;
  $("stage").classList.remove("speaking");
  $("turn").textContent = "";
  $("figures").replaceChildren();
  [$("before").hidden, $("during").hidden] = [false, true];
  if (recorded && welcome.recording) {  // a new server has not what the old one recorded
    $("download").firstElementChild.href = at(`/recordings/${welcome.session}`, visit);
    $("download").hidden = false;
  }
  say("not connected");
  trouble(message);
  $("talk").focus();
}

// The page is as wide as the agent's picture is in what of the window's height it may take (style.css).
function resize(canvas, width, height) {
  [canvas.width, canvas.height] = [width, height];
  if (canvas.id === "agent") document.documentElement.style.setProperty("--aspect", width / height);
}

function say(text) { $("state").textContent = text; }

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

async function about() {
  const {fields, portrait, voice, watch} = await (await fetch("/about" + location.search)).json();
  for (const [name, value] of Object.entries(fields)) {
    const input = $("before").elements[name];
    if (input) input.placeholder = value;
  }
  $("voice").hidden = !voice;
  $("watch").hidden = $("drawn").hidden = !watch;
  if (!portrait || live) return;
  const picture = new Image(), canvas = $("agent");
  picture.src = "data:image/jpeg;base64," + portrait;
  await picture.decode();
  if (live) return;
  resize(canvas, picture.width, picture.height);
  canvas.getContext("2d").drawImage(picture, 0, 0);
}
about().catch(() => trouble("The server cannot be reached, or does not let this page in."));

$("before").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!live) start(event.target, event.submitter?.value !== "watch");
});
$("during").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("typed").value.trim();
  if (text) live?.say({type: "text", text});
  $("typed").value = "";
});
$("mute").addEventListener("click", () => {
  if (!live) return;
  live.muted = !live.muted;
  for (const track of live.stream?.getAudioTracks() ?? []) track.enabled = !live.muted;
  $("mute").setAttribute("aria-pressed", String(live.muted));
});
$("stop").addEventListener("click", () => { live?.say({type: "bye"}); finish(""); });
$("figures-button").addEventListener("click", () => {
  $("figures").hidden = !$("figures").hidden;
  $("figures-button").setAttribute("aria-expanded", String(!$("figures").hidden));
});

// The agent's audio and video, in sync: the audio clock leads, and a frame is shown when its time is heard.

import {AUDIO, JPEG, VP8} from "./protocol.js";

const MAX_FRAMES = 100;  // that wait to be shown
const EARLY = 0.005;  // seconds by which a frame may be shown too early

export class Playback {
  // canvases: {agent, user}; `user` shows the person whom a viewer watches.
  constructor(context, welcome, canvases) {
    Object.assign(this, {context, welcome, canvases, frames: [], underruns: 0});
    this.decoders = {agent: null, user: null};  // of VP8
    this.loop = [];  // the two ends of the peer connection through which the audio is played
    this.waiting = this.offset = null;  // seconds: audio in the buffer; frame shown minus audio heard
    this.loopDelay = 0;  // seconds between the worklet and the speaker
    this.onheard = this.onflushed = () => {};  // (session time that is heard now); (the buffer was silenced)
    const processorOptions = {unit: welcome.unit_ms / 1000};
    this.node = new AudioWorkletNode(context, "playout", {numberOfInputs: 0, outputChannelCount: [1], processorOptions});
    this.node.port.onmessage = ({data}) => this.onReport(data);
  }

  // cancelEcho: true when somebody speaks into a microphone here.
  async start(cancelEcho) {
    const looped = cancelEcho && await this.playThroughLoop();
    if (!looped) this.node.connect(this.context.destination);
  }

  // Browsers cancel only the echo of what comes out of a peer connection, so the audio takes a loop through one.
  // Returns whether that works; if not, headphones help.
  async playThroughLoop() {
    const target = this.context.createMediaStreamDestination();
    this.node.connect(target);
    const [near, far] = this.loop = [new RTCPeerConnection(), new RTCPeerConnection()];
    near.onicecandidate = ({candidate}) => candidate && far.addIceCandidate(candidate);
    far.onicecandidate = ({candidate}) => candidate && near.addIceCandidate(candidate);
    this.speaker = new Audio();
    const connected = new Promise((resolve) => {
      far.ontrack = ({streams}) => { this.speaker.srcObject = streams[0]; };
      far.onconnectionstatechange = () => {
        if (far.connectionState === "connected") resolve(true);
        if (far.connectionState === "failed") this.node.connect(this.context.destination);  // the network changed
      };
      setTimeout(() => resolve(false), 1500);
    });
    near.addTrack(target.stream.getAudioTracks()[0], target.stream);
    await near.setLocalDescription();
    await far.setRemoteDescription(near.localDescription);
    await far.setLocalDescription();
    await near.setRemoteDescription(far.localDescription);
    this.measurable = (await connected) && (await this.speaker.play().then(() => true, () => false));
    return this.measurable;
  }

  // Measures how long audio takes from the worklet to the speaker: through the loop and out of the machine.
  async measureLoop() {
    let delay = this.context.outputLatency || 0;
    for (const report of this.measurable ? (await this.loop[1].getStats()).values() : []) {
      if (report.type !== "inbound-rtp" || report.kind !== "audio") continue;
      const [total, count] = [report.jitterBufferDelay, report.jitterBufferEmittedCount], last = this.emitted;
      if (last && count > last.count) delay += (total - last.total) / (count - last.count);
      this.emitted = {total, count};
    }
    this.loopDelay = delay;
  }

  // Handles a media message of the server.
  receive(message) {
    if (message.kind === AUDIO) this.receiveAudio(message);
    else if (message.kind === JPEG) this.decodeJPEG(message);
    else if (message.kind === VP8) this.decodeVP8(message);
  }

  receiveAudio({samples: read, time, userSide}) {
    const samples = read();
    if (userSide) { this.userAudio = samples; return; }  // of a watched person; the agent's of the same time follows
    if (this.userAudio) samples.forEach((x, i) => { samples[i] = x + this.userAudio[i]; });
    this.node.port.postMessage({samples, time}, [samples.buffer]);
  }

  decodeJPEG({payload, time, userSide}) {
    const side = userSide ? "user" : "agent";
    createImageBitmap(new Blob([payload], {type: "image/jpeg"}))
      .then((image) => this.frames.push({image, time, side})).catch(() => {});
  }

  decodeVP8({payload, time, keyFrame, userSide}) {
    const side = userSide ? "user" : "agent";
    if (keyFrame) this.decoders[side] ??= this.createDecoder(side);
    const chunk = {type: keyFrame ? "key" : "delta", timestamp: Math.round(1e6 * time), data: payload};
    this.decoders[side]?.decode(new EncodedVideoChunk(chunk));
  }

  createDecoder(side) {
    const output = (image) => this.frames.push({image, time: image.timestamp / 1e6, side});
    const decoder = new VideoDecoder({output, error: () => { this.decoders[side] = null; }});
    decoder.configure({codec: "vp8", optimizeForLatency: true});
    return decoder;
  }

  // The agent was interrupted: drops waiting audio, unless a watched person speaks in it too.
  flush() {
    if (!this.userAudio) this.node.port.postMessage("flush");
  }

  // Handles reports of the audio thread (worklets.js).
  onReport({time, waiting, underrun, flushed}) {
    if (flushed) { this.onflushed(); return; }
    if (underrun) { this.underruns++; return; }
    this.waiting = waiting;
    const heard = time - this.loopDelay;
    this.showFrames(heard);
    this.onheard(heard);
  }

  showFrames(heard) {
    while (this.frames.length > MAX_FRAMES) this.frames.shift().image.close();
    const due = this.frames.filter(({time}) => time <= heard + EARLY);
    this.frames = this.frames.filter(({time}) => time > heard + EARLY);
    for (const side of ["agent", "user"]) {
      const newest = due.findLast((frame) => frame.side === side);
      if (!newest) continue;
      drawImage(this.canvases[side], newest.image);
      if (side === "agent") this.offset = newest.time - heard;
    }
    for (const {image} of due) image.close();
  }

  stop() {
    for (const {image} of this.frames) image.close();
    this.frames = [];
    for (const peer of this.loop) peer.close();
    for (const decoder of Object.values(this.decoders)) if (decoder?.state === "configured") decoder.close();
  }
}

// Shows an image, VideoFrame or ImageBitmap on a canvas and gives the canvas its size.
export function drawImage(canvas, image) {
  const [width, height] = [image.displayWidth ?? image.width, image.displayHeight ?? image.height];
  if (canvas.width !== width || canvas.height !== height) {
    [canvas.width, canvas.height] = [width, height];
    // Sets the page's width to that of the agent's video, which fills a share of the window's height (style.css).
    if (canvas.id === "agent") document.documentElement.style.setProperty("--aspect", width / height);
  }
  canvas.getContext("2d").drawImage(image, 0, 0);
  canvas.hidden = false;
}

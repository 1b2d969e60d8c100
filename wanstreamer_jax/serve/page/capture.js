// Microphone and camera, as messages to the server.

import {AUDIO, JPEG, VP8, pack} from "./protocol.js";

const MAX_CLOCK_ERROR = 0.05;  // seconds between a part's time and the expected one, above which the clock is set anew
const MAX_QUEUED_AUDIO = 100000, MAX_QUEUED_VIDEO = 65536;  // bytes in the socket, above which nothing is added
export const now = () => performance.now() / 1000;

let vp8 = false;  // whether this browser encodes VP8; otherwise frames are sent as JPEG

async function detectCodecs() {
  const settings = {codec: "vp8", width: 64, height: 64};
  const supported = "VideoEncoder" in window && (await VideoEncoder.isConfigSupported(settings)).supported;
  vp8 = Boolean(supported) && !new URLSearchParams(location.search).has("jpeg");
}
detectCodecs().catch(() => {});

export function videoCodecs() { return vp8 ? ["vp8", "jpeg"] : ["jpeg"]; }

// Asks for microphone and camera; a microphone alone is enough.
export async function userMedia() {
  const audio = {echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1};
  try {
    return await navigator.mediaDevices.getUserMedia({audio, video: {width: 640, height: 480, frameRate: 25}});
  } catch (error) {
    if (error.name !== "NotFoundError") throw error;
    return navigator.mediaDevices.getUserMedia({audio});
  }
}

export class Capture {
  // socket: a function that returns the current WebSocket; preview: the <video> that shows the camera.
  constructor(context, welcome, socket, preview) {
    Object.assign(this, {context, welcome, socket, preview, muted: false});
  }

  start(stream) {
    if (stream.getAudioTracks().length) this.startAudio(stream);
    if (stream.getVideoTracks().length) this.startVideo(stream);
  }

  // The new connection's decoder knows nothing: begin with a key frame.
  restart() { this.needsKeyFrame = true; }

  stop() {
    clearInterval(this.timer);
    if (this.encoder?.state === "configured") this.encoder.close();
  }

  send(kind, time, payload, keyFrame) {
    const socket = this.socket();
    if (socket.readyState === WebSocket.OPEN) socket.send(pack(kind, time, payload, keyFrame));
  }

  startAudio(stream) {
    this.node = new AudioWorkletNode(this.context, "capture", {numberOfOutputs: 0});
    this.context.createMediaStreamSource(stream).connect(this.node);
    let clock = null;  // capture time of the next part: steady, although messages of the audio thread arrive unsteadily
    this.node.port.onmessage = ({data}) => {
      const length = data.length / this.welcome.sample_rate, captured = now() - length;
      clock = clock === null || Math.abs(captured - clock) > MAX_CLOCK_ERROR ? captured : clock;
      if (!this.muted && this.socket().bufferedAmount < MAX_QUEUED_AUDIO) {
        const samples = Int16Array.from(data, (x) => 32767 * Math.max(-1, Math.min(1, x)));
        this.send(AUDIO, clock, samples.buffer);
      }
      clock += length;
    };
  }

  // The camera, cropped at the centre and scaled to what the model sees.
  startVideo(stream) {
    const video = this.preview, {width, height, fps} = this.welcome;
    video.srcObject = stream;
    video.hidden = false;
    const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
    if (vp8) this.encoder = this.createEncoder(width, height, fps);
    let count = 0;
    this.timer = setInterval(() => {
      if (video.readyState < 2 || this.socket().bufferedAmount > MAX_QUEUED_VIDEO) return;
      const time = now(), scale = Math.max(width / video.videoWidth, height / video.videoHeight);
      const w = video.videoWidth * scale, h = video.videoHeight * scale;
      context.drawImage(video, (width - w) / 2, (height - h) / 2, w, h);
      if (!this.encoder) this.sendJPEG(canvas, time);
      else if (this.encoder.encodeQueueSize <= 2) this.encode(canvas, time, count++ % (10 * fps) === 0);
    }, 1000 / fps);
  }

  async sendJPEG(canvas, time) {
    const blob = await canvas.convertToBlob({type: "image/jpeg", quality: 0.85});
    this.send(JPEG, time, await blob.arrayBuffer(), true);
  }

  encode(canvas, time, keyFrame) {
    const frame = new VideoFrame(canvas, {timestamp: Math.round(1e6 * time)});
    this.encoder.encode(frame, {keyFrame: this.needsKeyFrame || keyFrame});
    this.needsKeyFrame = false;
    frame.close();
  }

  createEncoder(width, height, framerate) {
    const output = (chunk) => {
      const data = new ArrayBuffer(chunk.byteLength);
      chunk.copyTo(data);
      this.send(VP8, chunk.timestamp / 1e6, data, chunk.type === "key");
    };
    const encoder = new VideoEncoder({output, error: () => { this.encoder = null; }});  // JPEG from then on
    const bitrate = 4 * width * height + 64000;
    encoder.configure({codec: "vp8", width, height, framerate, bitrate, latencyMode: "realtime"});
    return encoder;
  }
}

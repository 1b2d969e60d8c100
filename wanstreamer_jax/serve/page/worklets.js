// Audio in and out, in the audio thread. Capture posts parts of 20 ms; Playout is a buffer whose delay never grows.

const MARGIN = 0.06;  // seconds of audio that may wait when a unit arrives
const REPORT_SECONDS = 0.015;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.begin();
  }

  begin() {
    this.part = new Float32Array(Math.round(sampleRate / 50));  // 20 ms
    this.filled = 0;
  }

  process(inputs) {
    const samples = inputs[0][0];
    if (!samples) return true;
    for (let i = 0; i < samples.length; i++) {
      this.part[this.filled++] = samples[i];
      if (this.filled === this.part.length) {
        this.port.postMessage(this.part, [this.part.buffer]);  // moves the buffer away
        this.begin();
      }
    }
    return true;
  }
}

class Playout extends AudioWorkletProcessor {
  constructor({processorOptions: {unit}}) {
    super();
    this.unit = unit;  // seconds
    this.parts = [];   // {samples, time}: session time of the first sample
    this.offset = 0;   // samples of the first part that were played
    this.waiting = 0;  // samples
    this.playing = false;
    this.reported = 0;  // time of the last report
    this.port.onmessage = ({data}) => (data === "flush" ? this.flush() : this.push(data));
  }

  push(part) {
    if (!this.parts.length && !this.playing) this.since = currentTime;
    this.parts.push(part);
    this.waiting += part.samples.length;
    // A unit arrives at once, when at most MARGIN still waits. What piles up beyond that came late and is dropped.
    if (this.waiting > (this.unit + 2 * MARGIN) * sampleRate) this.drop((this.unit + MARGIN) * sampleRate);
  }

  drop(target) {
    while (this.parts.length > 1 && this.waiting > target) {
      this.waiting -= this.parts[0].samples.length - this.offset;
      this.offset = 0;
      this.parts.shift();
    }
  }

  flush() {  // what waits is silenced but still played, so that the clock goes on
    for (const part of this.parts) part.samples.fill(0);
    this.port.postMessage({flushed: true});
  }

  process(_, outputs) {
    const out = outputs[0][0];
    if (!this.playing && (!this.parts.length || currentTime - this.since < MARGIN)) return true;
    this.playing = true;
    for (let i = 0; i < out.length; i++) {
      if (!this.parts.length) {
        this.playing = false;
        this.port.postMessage({underrun: true});
        break;
      }
      const part = this.parts[0];
      out[i] = part.samples[this.offset++];
      this.waiting--;
      if (this.offset === part.samples.length) {
        this.parts.shift();
        this.offset = 0;
      }
    }
    if (this.parts.length && currentTime - this.reported > REPORT_SECONDS) {
      this.reported = currentTime;
      this.port.postMessage({time: this.parts[0].time + this.offset / sampleRate, waiting: this.waiting / sampleRate});
    }
    return true;
  }
}

registerProcessor("capture", Capture);
registerProcessor("playout", Playout);

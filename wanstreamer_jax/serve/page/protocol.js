// The wire protocol of the live service, version 2: docs/protocol.md describes it, protocol.py is the same in Python.

export const VERSION = 2, AUDIO = 1, JPEG = 2, VP8 = 3;
const HEADER = 16, KEY_FRAME = 1, USER_SIDE = 2;  // bytes; flags
const TRIES = 3;  // servers to try when one is full

// A media message as it is sent. payload: ArrayBuffer; time: seconds of this page's clock at capture.
export function pack(kind, time, payload, keyFrame = true) {
  const message = new ArrayBuffer(HEADER + payload.byteLength), view = new DataView(message);
  view.setUint8(0, kind);
  view.setUint8(1, keyFrame ? KEY_FRAME : 0);
  view.setFloat64(8, time, true);
  new Uint8Array(message, HEADER).set(new Uint8Array(payload));
  return message;
}

// A media message as it was received. time: seconds of the session.
export function unpack(message) {
  const view = new DataView(message), flags = view.getUint8(1);
  return {
    kind: view.getUint8(0),
    keyFrame: (flags & KEY_FRAME) !== 0,
    userSide: (flags & USER_SIDE) !== 0,
    time: view.getFloat64(8, true),
    payload: new Uint8Array(message, HEADER),
    samples: () => Float32Array.from(new Int16Array(message, HEADER), (x) => x / 32768),
  };
}

// An address on the server, with this page's own query. A load balancer finds a session's server by `affinity`.
export function addressOf(path, affinity) {
  const address = new URL(path + location.search, location.href);
  address.searchParams.set("affinity", affinity);
  return address;
}

// Connects and says hello. Rejects with an Error for people; `final`: the server answered; `full`: no free slot.
export function connect(hello, affinity) {
  const address = addressOf("/live", affinity);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  return new Promise((resolve, reject) => {
    socket.onopen = () => socket.send(JSON.stringify({type: "hello", version: VERSION, ...hello}));
    socket.onerror = () => reject(new Error("The server cannot be reached, or refused this page."));
    socket.onclose = () => reject(new Error("The server ended the connection."));
    socket.onmessage = ({data}) => {
      const value = JSON.parse(data);
      if (value.type === "welcome") return resolve({socket, welcome: value});
      const error = new Error(value.message ?? "The server did not understand this page.");
      reject(Object.assign(error, {final: true, full: value.type === "full"}));
    };
  });
}

// Begins a session. When a server is full, another key may lead to another one.
export async function begin(hello) {
  for (let tries = TRIES; ; tries--) {
    const affinity = crypto.randomUUID();
    try {
      return {affinity, ...await connect(hello, affinity)};
    } catch (error) {
      if (!error.full || tries === 1) throw error;
    }
  }
}

// The page: the form before a conversation, its start and end, and reconnecting.

import {now, userMedia, videoCodecs} from "./capture.js";
import {Conversation} from "./conversation.js";
import {drawImage} from "./playback.js";
import {addressOf, begin, connect} from "./protocol.js";

const $ = (id) => document.getElementById(id);
const RECONNECT_SECONDS = 30;  // for which the server keeps the session
const MAX_PORTRAIT_SIDE = 512, MAX_VOICE = 600000;  // pixels, bytes
const UNREACHABLE = "The server cannot be reached, or refused this page.";
const DEVICE_ERRORS = {
  NotAllowedError: "The browser was not allowed to use your camera and microphone. Allow them beside the address, or watch.",
  NotFoundError: "No camera or microphone was found. Plug one in, or watch.",
  NotReadableError: "Another program is using your camera or microphone. Close it and try again.",
};

let live = null;  // {conversation, stream, affinity, recorded, state} of the running conversation
let starting = false;

function setState(text) { $("state").textContent = text; }

function warn(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

// Makes the hello message from the form.

async function helloOf(form, watch) {
  const data = new FormData(form), fields = {}, world = {};
  for (const name of ["name", "home", "likes"]) if (data.get(name)) fields[name] = data.get(name);
  if (Object.keys(fields).length) world.fields = fields;
  if (data.get("portrait")?.size) world.portrait = await base64(await shrink(data.get("portrait")));
  if (data.get("voice")?.size > MAX_VOICE) throw new Error(`The voice sample is too large: at most ${MAX_VOICE / 1000} kB.`);
  if (data.get("voice")?.size) world.voice = await base64(data.get("voice"));
  return {world, watch, record: data.has("record"), video: videoCodecs()};
}

// Turns an image file into a JPEG of at most MAX_PORTRAIT_SIDE pixels a side.
async function shrink(file) {
  const photo = await createImageBitmap(file), scale = Math.min(1, MAX_PORTRAIT_SIDE / Math.max(photo.width, photo.height));
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

// Start, reconnect, end

async function start(form, talk) {
  if (starting) return;
  if (!isSecureContext) return warn("Browsers allow microphone and camera only on https pages and on this machine's own address.");
  starting = true;
  setState("connecting …");
  warn("");
  let stream = null, conversation = null;
  try {
    if (talk) stream = await userMedia();
    const hello = await helloOf(form, !talk), {socket, welcome, affinity} = await begin(hello);
    conversation = new Conversation(welcome, socket, {warn, onended: finish});
    $("mute").setAttribute("aria-pressed", "false");
    $("download").hidden = true;
    const early = [];  // messages that arrive while audio is set up
    socket.onmessage = ({data}) => early.push(data);
    await conversation.begin(stream);
    if (socket.readyState !== WebSocket.OPEN) throw new Error("The server ended the connection.");
    live = {conversation, stream, affinity, recorded: hello.record, state: talk ? "live" : "live, watching"};
    attach(socket);
    for (const data of early) live?.conversation.receive(data);
    if (live) showConversation(talk);
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop());
    conversation?.end();
    setState("not connected");
    warn((stream || !talk ? null : DEVICE_ERRORS[error.name]) ?? error.message);
  } finally {
    starting = false;
  }
}

function showConversation(talk) {
  setState(live.state);
  [$("before").hidden, $("during").hidden, $("mute").hidden] = [true, false, !talk];
  $(matchMedia("(pointer: fine)").matches ? "typed" : "stop").focus();  // a phone's keyboard would cover the agent
}

function attach(socket) {
  socket.onmessage = ({data}) => live?.conversation.receive(data);
  socket.onclose = reconnect;
}

// Tries to continue the session after the connection broke or the server restarted.
async function reconnect() {
  const lost = live, deadline = now() + RECONNECT_SECONDS;
  while (lost && live === lost && now() < deadline) {
    setState("connection lost, reconnecting …");
    try {
      const hello = {session: lost.conversation.welcome.session, video: videoCodecs()};
      const {socket, welcome} = await connect(hello, lost.affinity);
      if (live !== lost) return socket.close();
      attach(socket);
      const failed = (error) => live === lost && lost.conversation.socket === socket && finish(error.message);
      lost.conversation.reconnect(socket, welcome, lost.stream).catch(failed);
      return setState(lost.state);
    } catch (error) {
      if (error.final) return finish(error.message);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  if (lost && live === lost) finish("The connection was lost.");
}

function finish(message) {
  if (!live) return;
  const {conversation, stream, recorded, affinity} = live, {socket, welcome} = conversation;
  live = null;
  socket.onclose = null;
  conversation.end();
  stream?.getTracks().forEach((track) => track.stop());
  $("self").hidden = $("watched").hidden = $("remote").hidden = true;
  $("agent").hidden = false;
  $("remote").srcObject = null;
  $("stage").classList.remove("speaking");
  $("turn").textContent = "";
  $("figures").replaceChildren();
  [$("before").hidden, $("during").hidden] = [false, true];
  if (recorded && welcome.recording) {  // a recording does not survive a restart of the server
    $("download").firstElementChild.href = addressOf(`/recordings/${welcome.session}`, affinity);
    $("download").hidden = false;
  }
  setState("not connected");
  warn(message);
  $("talk").focus();
}

// Shows what the server says about the agent before a conversation.
async function showAbout() {
  const {fields, portrait, voice, watch} = await (await fetch("/about" + location.search)).json();
  for (const [name, value] of Object.entries(fields)) {
    const input = $("before").elements[name];
    if (input) input.placeholder = value;
  }
  $("voice").hidden = !voice;
  $("watch").hidden = $("simulated").hidden = !watch;
  if (!portrait || live) return;
  const image = new Image();
  image.src = "data:image/jpeg;base64," + portrait;
  await image.decode();
  if (!live) drawImage($("agent"), image);
}
showAbout().catch(() => warn(UNREACHABLE));

$("before").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!live) start(event.target, event.submitter?.value !== "watch");
});
$("during").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("typed").value.trim();
  if (text) live?.conversation.say({type: "text", text});
  $("typed").value = "";
});
$("mute").addEventListener("click", () => {
  if (!live) return;
  live.muted = !live.muted;
  live.conversation.mute(live.muted);
  for (const track of live.stream?.getAudioTracks() ?? []) track.enabled = !live.muted;
  $("mute").setAttribute("aria-pressed", String(live.muted));
});
$("stop").addEventListener("click", () => { live?.conversation.say({type: "bye"}); finish(""); });
$("figures-button").addEventListener("click", () => {
  $("figures").hidden = !$("figures").hidden;
  $("figures-button").setAttribute("aria-expanded", String(!$("figures").hidden));
});

// The page of a live session: one WebSocket carries sound, wishes, figures and, without WebRTC, the video.
import { Mp4Player, RtcPlayer } from "./player.js";

const part = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const canRtc = "RTCPeerConnection" in window;
let socket, player, microphone, portrait;
let open = false;
let begins = 0, asking = false;

part.token.value = new URLSearchParams(location.search).get("token") ?? "";
if (!canRtc) part.way.value = "mp4";
enable(false);

part.begin.onclick = begin;
part.interrupt.onclick = () => send({ interrupt: true });
part.sound.onclick = () => mute(!part.video.muted);
part.microphone.onclick = () => (microphone ? stopMicrophone() : asking || startMicrophone());
part.say.onsubmit = (event) => {
  event.preventDefault();
  if (part.text.value.trim()) send({ text: part.text.value });
  part.text.value = "";
};
part.file.onchange = () => playFile(part.file.files[0]);
part.portrait.onchange = () => choosePortrait(part.portrait.files[0]);
part.prompt.onchange = () => open && send({ prompt: part.prompt.value });
part.seed.onchange = () => open && part.seed.value !== "" && send({ seed: Math.trunc(Number(part.seed.value)) });
part.way.onchange = () => open && begin();
part.stage.ondragover = (event) => { event.preventDefault(); part.stage.classList.add("over"); };
part.stage.ondragleave = () => part.stage.classList.remove("over");
part.stage.ondrop = (event) => {
  event.preventDefault();
  part.stage.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) (file.type.startsWith("image/") ? choosePortrait : playFile)(file);
};

async function begin() {
  const turn = ++begins;
  hangUp();
  tell("Starting: the picture is being read.");
  state("Starting");
  part.begin.hidden = true;
  const address = new URL("live", location.href);
  address.protocol = location.protocol.replace("http", "ws");
  address.search = part.token.value ? `?token=${encodeURIComponent(part.token.value)}` : "";
  const picture = await readPicture().catch(() => undefined);
  if (turn !== begins) return; // begun again meanwhile
  if (!picture) return over();
  const mine = (socket = new WebSocket(address));
  mine.binaryType = "arraybuffer";
  mine.onopen = () => {
    const wishes = { webrtc: part.way.value === "webrtc" };
    if (part.prompt.value) wishes.prompt = part.prompt.value;
    if (part.seed.value !== "") wishes.seed = Math.trunc(Number(part.seed.value));
    mine.send(JSON.stringify(wishes));
    mine.send(picture);
  };
  mine.onmessage = ({ data }) => mine === socket && (typeof data === "string" ? hear(JSON.parse(data)) : player?.push?.(data));
  mine.onclose = () => mine === socket && over();
}

async function readPicture() {
  return (portrait ?? (await (await fetch("portrait.jpg")).blob())).arrayBuffer();
}

function hear(message) {
  if (message.width) opened(message);
  if (message.mime) {
    player?.close();
    player = new Mp4Player(part.video, message.mime, (text) => tell(text, true));
  }
  if (message.answer) player?.answer?.(message.answer);
  if (message.figures) show(message.figures);
  if (message.problem) tell(message.problem, true);
  if (message.error) tell(message.error, true);
}

function opened({ width, height, text, webrtc }) {
  open = true;
  part.stage.style.aspectRatio = `${width} / ${height}`;
  enable(true);
  if (document.activeElement === document.body) part.microphone.focus(); // the button that was pressed is hidden now
  part.text.disabled = part.say.querySelector("button").disabled = !text;
  part.text.placeholder = text ? "Type something to say" : "Typed text needs espeak-ng on the server";
  tell("Speak, type or play a sound file. The avatar listens.");
  state("Idle", "idle");
  part.video.play().catch(() => mute(true));
  tellOfMicrophone();
  if (part.way.value === "webrtc") startRtc(webrtc);
}

function startRtc(offered) {
  const useMp4 = () => {
    part.way.value = "mp4";
    tell("WebRTC does not get through here, so the video comes as MP4 over WebSocket.");
    send({ video: "mp4" });
  };
  if (!offered) return useMp4();
  player = new RtcPlayer(part.video, send, useMp4);
  player.offer();
}

function show(figures) {
  const seconds = (value) => (value === null ? "–" : `${value.toFixed(2)} s`);
  part.delay.textContent = seconds(figures.delay_s);
  part.rtf.textContent = figures.rtf === null ? "–" : figures.rtf.toFixed(2);
  part.rtf.classList.toggle("bad", figures.rtf > 1);
  part.late.textContent = figures.late_frames;
  part.late.classList.toggle("bad", figures.late_frames > 0.02 * figures.shown_frames);
  part.dropped.textContent = figures.dropped_frames;
  if (open) state(figures.speaking ? "Speaking" : microphone ? "Listening" : "Idle", figures.speaking ? "speaking" : "idle");
}

async function startMicrophone() {
  if (!navigator.mediaDevices) {
    return tell("Browsers give the microphone only to https pages and to localhost. Start the server with --tls-cert.", true);
  }
  asking = true;
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true, channelCount: 1 } });
    const context = new AudioContext();
    microphone = { stream, context };
    await context.audioWorklet.addModule("microphone.js");
    if (!socket) return stopMicrophone(); // the session ended meanwhile
    const blocks = new AudioWorkletNode(context, "blocks", { numberOfOutputs: 0 });
    tellOfMicrophone();
    blocks.port.onmessage = ({ data }) => open && socket.send(data.buffer);
    context.createMediaStreamSource(stream).connect(blocks);
    stream.getAudioTracks()[0].onended = () => {
      stopMicrophone();
      tell("The microphone was disconnected. Connect it and press Microphone again.", true);
    };
    part.microphone.textContent = "Stop mic";
    part.microphone.classList.add("on");
    mute(true);
    tell("Speak. The sound is off, so that the microphone does not hear it; with headphones, turn it on.");
  } catch (error) {
    stopMicrophone();
    tell(
      error.name === "NotAllowedError" ? "The microphone was not allowed. Allow it in the browser's address bar and try again."
        : error.name === "NotFoundError" ? "No microphone was found. Connect one, or type, or play a sound file."
        : `The microphone could not be opened: ${error.message}`, true);
  } finally {
    asking = false;
  }
}

// A session that begins anew, with another portrait, goes on listening.
function tellOfMicrophone() {
  if (microphone) send({ sound: "microphone", rate: microphone.context.sampleRate });
}

function stopMicrophone() {
  microphone?.stream.getTracks().forEach((track) => track.stop());
  microphone?.context.close();
  microphone = undefined;
  if (open) send({ end: true });
  part.microphone.textContent = "Microphone";
  part.microphone.classList.remove("on");
}

async function playFile(file) {
  if (!file || !open) return;
  const data = await file.arrayBuffer();
  send({ file: true });
  if (open) socket.send(data);
  part.file.value = "";
}

function choosePortrait(file) {
  if (!file) return;
  portrait = file;
  part.video.poster = URL.createObjectURL(file);
  part.portrait.value = "";
  begin();
}

function send(message) {
  if (open) socket.send(JSON.stringify(message));
}

function hangUp() {
  open = false;
  player?.close();
  player = undefined;
  const old = socket;
  socket = undefined;
  old?.close();
}

async function over() {
  const told = part.note.classList.contains("bad");
  const opened = open;
  hangUp();
  stopMicrophone();
  enable(false);
  state("Over", "over");
  part.begin.hidden = false;
  if (document.activeElement === document.body) part.begin.focus();
  if (!told) tell(opened ? "The connection is over." : await whyClosed(), true);
}

async function whyClosed() {
  const health = await fetch("health").then((answer) => answer.json(), () => undefined);
  if (!health) return "The server does not answer.";
  if (health.status === "starting") return "The model is being started. Try again in a moment.";
  if (health.status === "draining") return "The server is shutting down.";
  const { status } = await fetch(`state?token=${encodeURIComponent(part.token.value)}`);
  if (status === 401) return "The server wants a token, and this one is missing or wrong. Enter it in the settings and press Start.";
  return "All places of the server are taken. Try again later.";
}

function enable(on) {
  for (const name of ["microphone", "interrupt", "text", "file"]) part[name].disabled = !on;
  part.say.querySelector("button").disabled = !on;
  part.file.parentElement.classList.toggle("off", !on);
}

function mute(on) {
  part.video.muted = on;
  part.sound.textContent = on ? "Sound off" : "Sound on";
  part.video.play().catch(() => {});
}

function state(text, kind = "") {
  if (part.state.textContent !== text) part.state.textContent = text; // screen readers say it again otherwise
  part.state.dataset.state = kind;
}

function tell(text, bad = false) {
  part.note.textContent = text;
  part.note.classList.toggle("bad", bad);
}

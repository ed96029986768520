// What the node shows of a live session: the video, which comes as MP4 over ComfyUI's own port, its controls and its figures.
const RETRIES = 4;
const BUTTON = "flex: 1; padding: 5px 8px; border: 0; border-radius: 4px; cursor: pointer; font: 12px sans-serif; background: var(--comfy-input-bg, #333); color: var(--input-text, #ddd)";
const LINE = "font: 12px/1.3 sans-serif; color: var(--descrip-text, #999); text-align: center; min-height: 16px";

export class LiveSession {
  // `url` makes an address of ComfyUI's from a path, `post` sends a POST there.
  constructor(url, post) {
    Object.assign(this, { url, post });
    this.element = styled("div", "display: flex; flex-direction: column; gap: 5px; width: 100%; height: 100%; min-height: 330px");
    this.element.className = "livetalk-session";
    const frame = styled("div", "position: relative; flex: 1; min-height: 200px");
    this.video = styled("video", "position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; background: #000; border-radius: 4px");
    this.video.playsInline = this.video.autoplay = true;
    frame.append(this.video);
    this.microphone = button("Microphone", () => (this.hearing ? this.stopMicrophone() : this.asking || this.startMicrophone()));
    this.interrupt = button("Interrupt", () => this.send({ interrupt: true }));
    this.sound = button("Sound on", () => this.mute(!this.video.muted));
    this.ending = button("End", () => this.end());
    this.text = styled("input", `${BUTTON}; cursor: text; box-sizing: border-box; width: 100%; flex: none`);
    this.text.placeholder = "Type something to say, and press Enter";
    this.text.setAttribute("aria-label", "Text to speak");
    this.text.maxLength = 2000;
    this.text.addEventListener("keydown", (event) => this.type(event));
    this.line = styled("div", LINE);
    this.line.setAttribute("role", "status");
    this.figures = styled("div", `${LINE}; font-size: 11px; min-height: 14px; white-space: nowrap`);
    const row = styled("div", "display: flex; gap: 5px");
    row.append(this.microphone, this.interrupt, this.sound, this.ending);
    this.element.append(frame, row, this.text, this.line, this.figures);
    this.over("Run the node to open a session");
  }

  // Show a session. A page that has just been closed may still have it for a moment, so it is tried some times.
  join(session, retries = RETRIES) {
    if (this.session === session) return;
    this.leave();
    this.session = session;
    const address = new URL(this.url(`/livetalk/session/${session}/talk`), location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = (this.socket = new WebSocket(address));
    socket.binaryType = "arraybuffer";
    let told;
    socket.onmessage = ({ data }) => {
      if (this.socket !== socket) return;
      if (typeof data !== "string") return this.receive(data);
      const message = JSON.parse(data);
      told = message.error ?? told;
      this.hear(message);
    };
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.leave();
      if (retries && told?.startsWith("another page")) setTimeout(() => this.session || this.join(session, retries - 1), 800);
      else this.over(told ?? "The session is over. Run the node to open another.");
    };
  }

  hear(message) {
    if (message.session) this.opened(message);
    if (message.mime) this.play(message.mime);
    if (message.figures) this.show(message.figures);
    if (message.problem ?? message.error) this.tell(message.problem ?? message.error, true);
  }

  opened({ text }) {
    for (const part of [this.microphone, this.interrupt, this.sound, this.ending, this.text]) part.disabled = false;
    this.text.disabled = !text;
    if (!text) this.text.placeholder = "Typed text needs espeak-ng on the server";
    this.tell("Speak or type. The avatar listens.");
  }

  // The video may be there before the module that plays it.
  async play(mime) {
    this.waiting = [];
    const { Mp4Player } = await import(new URL(this.url("/livetalk/session/player.js"), location.href));
    if (!this.waiting) return;
    this.player = new Mp4Player(this.video, mime, (text) => this.tell(text, true));
    this.waiting.forEach((data) => this.player.push?.(data));
    this.video.play().catch(() => this.mute(true));
  }

  receive(data) {
    if (this.player) this.player.push(data);
    else this.waiting?.push(data);
  }

  show({ delay_s, rtf, late_frames, dropped_frames }) {
    const number = (value, unit) => (value === null ? "–" : `${value.toFixed(2)}${unit}`);
    this.figures.textContent = `sound to lips ${number(delay_s, " s")} · RTF ${number(rtf, "")} · ${late_frames} late · ${dropped_frames} dropped`;
    this.figures.title = "RTF: seconds of work for a second of video; above 1, frames come late";
  }

  async startMicrophone() {
    if (!navigator.mediaDevices) return this.tell("Browsers give the microphone only to https pages and to localhost. Start ComfyUI with --tls-keyfile and --tls-certfile.", true);
    const socket = this.socket;
    this.asking = true;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true, channelCount: 1 } });
      const context = new AudioContext();
      this.hearing = { stream, context };
      await context.audioWorklet.addModule(new URL(this.url("/livetalk/session/microphone.js"), location.href));
      if (this.socket !== socket) return this.stopMicrophone(); // the session ended meanwhile
      const blocks = new AudioWorkletNode(context, "blocks", { numberOfOutputs: 0 });
      this.send({ sound: "microphone", rate: context.sampleRate });
      blocks.port.onmessage = ({ data }) => this.hearing && this.socket?.readyState === WebSocket.OPEN && this.socket.send(data.buffer);
      context.createMediaStreamSource(stream).connect(blocks);
      stream.getAudioTracks()[0].onended = () => {
        this.stopMicrophone();
        this.tell("The microphone was disconnected. Connect it and press Microphone again.", true);
      };
      this.microphone.textContent = "Stop mic";
      this.mute(true);
      this.tell("Speak. The sound is off, so that the microphone does not hear it; with headphones, turn it on.");
    } catch (error) {
      this.stopMicrophone();
      this.tell(
        error.name === "NotAllowedError" ? "The microphone was not allowed. Allow it in the browser's address bar and try again."
          : error.name === "NotFoundError" ? "No microphone was found. Connect one, or type."
          : `The microphone could not be opened: ${error.message}`, true);
    } finally {
      this.asking = false;
    }
  }

  stopMicrophone() {
    const hearing = this.hearing;
    this.hearing = undefined;
    hearing?.stream.getTracks().forEach((track) => track.stop());
    hearing?.context.close();
    if (hearing) this.send({ end: true });
    this.microphone.textContent = "Microphone";
  }

  type(event) {
    event.stopPropagation(); // keys typed here are not ComfyUI's
    if (event.key !== "Enter" || !this.text.value.trim()) return;
    this.send({ text: this.text.value });
    this.text.value = "";
  }

  mute(on) {
    this.video.muted = on;
    this.sound.textContent = on ? "Sound off" : "Sound on";
    this.video.play().catch(() => {});
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  // The session itself is over.
  end() {
    const session = this.session ?? this.left;
    this.leave();
    this.left = undefined;
    if (session) this.post(`/livetalk/session/${session}/end`);
    this.over("The session is over. Run the node to open another.");
  }

  // This page shows the session no more; it may go on.
  leave() {
    this.stopMicrophone();
    this.player?.close();
    const socket = this.socket;
    this.player = this.socket = this.waiting = undefined;
    this.left = this.session ?? this.left;
    this.session = undefined;
    socket?.close();
  }

  over(text) {
    for (const part of [this.microphone, this.interrupt, this.sound, this.ending, this.text]) part.disabled = true;
    this.figures.textContent = "";
    this.tell(text);
  }

  tell(text, bad = false) {
    this.line.textContent = text;
    this.line.style.color = bad ? "var(--error-text, #f66)" : "var(--descrip-text, #999)";
  }
}

function styled(kind, style) {
  const element = document.createElement(kind);
  element.style.cssText = style;
  return element;
}

function button(text, act) {
  const element = styled("button", BUTTON);
  element.type = "button";
  element.textContent = text;
  element.addEventListener("click", act);
  return element;
}

// Plays a channel: MP4 fragments from a WebSocket go to a <video> through Media Source Extensions. Statistics are shown below.

const KEEP_S = 30; // seconds of played video that stay in the browser
const RETRIES = 6;
const LEFT = / · \d+ s left$/;
const STOPPED = " · stopped";

export class LivePlayer {
  constructor(url) {
    this.url = url;
    this.element = document.createElement("div");
    this.element.className = "livetalk-player";
    this.element.style.cssText = "display: flex; flex-direction: column; gap: 4px; width: 100%; height: 100%; min-height: 240px";
    const frame = document.createElement("div"); // the video fills it, whatever its own size
    frame.style.cssText = "position: relative; flex: 1; min-height: 200px";
    this.video = document.createElement("video");
    this.video.controls = true;
    this.video.playsInline = true;
    this.video.style.cssText = "position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; background: #000; border-radius: 4px";
    this.line = document.createElement("div");
    this.line.style.cssText = "font: 11px sans-serif; color: var(--descrip-text, #999); text-align: center; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; min-height: 14px";
    this.line.textContent = "Plays here while the video is made";
    this.note = document.createElement("div"); // the error of a lossy setting
    this.note.style.cssText = "font: 11px sans-serif; color: var(--descrip-text, #999); text-align: center";
    frame.append(this.video);
    this.element.append(frame, this.line, this.note);
    this.video.addEventListener("waiting", () => this.skipGap());
    this.video.addEventListener("ended", () => this.replayable());
  }

  watch(channel) {
    if (this.run?.channel === channel) return;
    this.close();
    this.video.removeAttribute("poster");
    this.awaited = true;
    this.run = { channel, seen: 0, waiting: [], retries: 0, ended: false, started: false };
    this.connect(this.run);
  }

  // A new run: its crop of the picture stands in the player until the first frames are there.
  showCrop(file) {
    if (!file) return;
    this.close();
    this.awaited = true;
    this.video.poster = this.url(`/view?${new URLSearchParams(file)}`);
    this.line.textContent = "The video's crop of the picture";
  }

  // What the running node says before the first frames. From its second line on, it is a note that stays.
  say(text) {
    const [line, ...note] = text.split("\n");
    if (!this.run?.hasStart) this.line.textContent = line;
    this.note.textContent = note.join(" ");
  }

  // The video of a channel is complete: the one that was watched plays on, any other page gets the file.
  finish(channel, file) {
    if (this.run?.channel === channel && this.run.hasStart) this.file = file;
    else this.show(file);
  }

  // The run ended without a video.
  stop() {
    if (!this.awaited) return;
    if (this.run) this.run.stopped = true;
    this.line.textContent = this.run?.hasStart ? this.line.textContent.replace(LEFT, STOPPED) : "Stopped before the first frame";
  }

  // A finished video. While it still plays live, it is only remembered, for playing it again from its start. One that was made before
  // anything could be played live is played now.
  show({ pace, ...file }) {
    const address = this.url(`/view?${new URLSearchParams(file)}`);
    if (this.shown === address) return;
    this.file = { pace, ...file };
    if (this.run?.hasStart && !this.video.ended) return;
    const unseen = this.awaited && !this.run?.hasStart;
    this.close();
    this.shown = address;
    this.video.src = address;
    if (pace) this.showPace(pace);
    if (unseen) this.play();
  }

  close() {
    const run = this.run;
    this.run = this.file = this.shown = null;
    this.awaited = false;
    run?.socket?.close();
    if (this.video.src) {
      URL.revokeObjectURL(this.video.src);
      this.video.removeAttribute("src");
      this.video.load();
    }
  }

  connect(run) {
    const address = new URL(this.url(`/livetalk/live/${run.channel}?after=${run.seen}`), location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = (run.socket = new WebSocket(address));
    socket.binaryType = "arraybuffer";
    let stats = {};
    socket.onmessage = ({ data }) => {
      if (this.run !== run) return socket.close();
      if (typeof data !== "string") return this.receive(run, stats, data);
      stats = JSON.parse(data);
      if (stats.mime) this.prepare(run, stats.mime);
      if (stats.ended) run.ended = true;
      this.feed(run);
    };
    socket.onclose = () => {
      if (this.run !== run || run.ended || run.retries >= RETRIES) return;
      setTimeout(() => this.run === run && this.connect(run), 250 * 2 ** run.retries++);
    };
  }

  // After the live video has ended, the file takes its place at the same picture, so that all of it can be played again.
  replayable() {
    if (!this.file || !this.run) return;
    const at = this.video.currentTime;
    this.show(this.file);
    this.video.addEventListener("loadedmetadata", () => (this.video.currentTime = Math.min(at, this.video.duration - 0.05)), { once: true });
  }

  prepare(run, mime) {
    if (run.source) return;
    if (!window.MediaSource?.isTypeSupported(mime)) {
      this.line.textContent = `This browser cannot play ${mime}`;
      return;
    }
    run.source = new MediaSource();
    this.video.src = URL.createObjectURL(run.source);
    run.source.addEventListener("sourceopen", () => {
      run.buffer = run.source.addSourceBuffer(mime);
      run.buffer.addEventListener("updateend", () => this.feed(run));
      this.feed(run);
    }, { once: true });
  }

  // Fragment 0, the init segment, is sent on every connection; all others once.
  receive(run, stats, data) {
    run.retries = 0;
    if (stats.number === 0 ? run.hasStart : stats.number <= run.seen) return;
    run.hasStart = true;
    run.seen = Math.max(run.seen, stats.number);
    run.waiting.push(data);
    this.showPace(stats);
    this.feed(run);
  }

  feed(run) {
    const { buffer, source } = run;
    if (!buffer || buffer.updating || source.readyState !== "open" || this.run !== run) return;
    if (buffer.buffered.length) {
      this.skipGap();
      if (!run.started) this.play();
      run.started = true;
    }
    if (this.evict(buffer, KEEP_S)) return;
    if (run.waiting.length) {
      try {
        buffer.appendBuffer(run.waiting[0]);
        run.waiting.shift();
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
        if (!this.evict(buffer, 1)) setTimeout(() => this.feed(run), 1000);
      }
    } else if (run.ended) source.endOfStream();
  }

  evict(buffer, keep) {
    const until = this.video.currentTime - keep;
    if (!buffer.buffered.length || buffer.buffered.start(0) >= until - 5) return false;
    buffer.remove(0, until);
    return true;
  }

  async play() {
    try {
      await this.video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError") return;
      this.video.muted = true; // browsers allow no sound before the first click
      this.video.play().catch(() => {});
      this.video.addEventListener("click", () => (this.video.muted = false), { once: true });
    }
  }

  // After a lost fragment or a late start, jump to where there is video.
  skipGap() {
    const { buffered, currentTime } = this.video;
    for (let i = 0; i < buffered.length; i++) {
      if (currentTime < buffered.start(i)) {
        this.video.currentTime = buffered.start(i);
        return;
      }
      if (currentTime < buffered.end(i) - 0.05) return;
    }
  }

  showPace({ frames, total, ttff_s, fps, rtf, note }) {
    if (ttff_s === undefined || ttff_s === null) return;
    const numbers = [ttff_s.toFixed(1), fps.toFixed(1), rtf.toFixed(2)];
    const left = frames === total ? "" : this.run?.stopped ? STOPPED : ` · ${Math.ceil((total - frames) / fps)} s left`;
    this.line.textContent = `first ${numbers[0]} s · ${numbers[1]} fps · RTF ${numbers[2]} · ${frames}/${total} frames${left}`;
    this.line.title = `first frame after ${numbers[0]} s, ${numbers[1]} frames a second, real-time factor ${numbers[2]}, ${frames} of ${total} frames`;
    if (note !== undefined) this.note.textContent = note;
  }
}

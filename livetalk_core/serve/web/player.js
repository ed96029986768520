// Shows the video of a session: by WebRTC, or fragmented MP4 through Media Source Extensions.

const BEHIND_S = 0.6; // MP4 that is further behind than this is skipped

export class Mp4Player {
  constructor(video, mime, onProblem) {
    this.video = video;
    this.waiting = [];
    const Source = window.ManagedMediaSource ?? window.MediaSource;
    if (!Source || !Source.isTypeSupported(mime)) {
      onProblem("This browser cannot play the video; try a current Chrome, Edge, Firefox or Safari.");
      return;
    }
    this.source = new Source();
    video.disableRemotePlayback = true;
    video.srcObject = null;
    video.src = URL.createObjectURL(this.source);
    this.source.addEventListener("sourceopen", () => {
      this.buffer = this.source.addSourceBuffer(mime);
      this.buffer.addEventListener("updateend", () => this.next());
      this.next();
    }, { once: true });
  }

  push(data) {
    this.waiting.push(data);
    this.next();
  }

  next() {
    if (!this.buffer || this.buffer.updating || this.source.readyState !== "open") return;
    const { buffered } = this.buffer;
    if (buffered.length) {
      const end = buffered.end(buffered.length - 1);
      if (end - this.video.currentTime > BEHIND_S || this.video.currentTime < buffered.start(0)) this.video.currentTime = end - 0.1;
      if (this.video.currentTime - buffered.start(0) > 30) {
        this.buffer.remove(0, this.video.currentTime - 10);
        return;
      }
    }
    if (this.waiting.length) this.buffer.appendBuffer(this.waiting.shift());
  }

  close() {
    this.waiting = [];
    if (this.source?.readyState === "open" && !this.buffer?.updating) this.source.endOfStream();
  }
}

export class RtcPlayer {
  // onFail is called once if no picture comes within some seconds.
  constructor(video, send, onFail) {
    this.connection = new RTCPeerConnection();
    this.send = send;
    const stream = new MediaStream();
    for (const kind of ["video", "audio"]) this.connection.addTransceiver(kind, { direction: "recvonly" });
    this.connection.ontrack = ({ track, receiver }) => {
      receiver.jitterBufferTarget = 0; // the server's clock is even, so the browser need not wait for more than the network's jitter
      stream.addTrack(track);
      video.srcObject = stream;
    };
    this.connection.onconnectionstatechange = () => {
      if (this.connection.connectionState === "failed") this.fail();
    };
    this.timer = setTimeout(() => this.connection.connectionState !== "connected" && this.fail(), 6000);
    this.fail = () => {
      this.fail = () => {};
      this.close();
      onFail();
    };
  }

  async offer() {
    await this.connection.setLocalDescription(await this.connection.createOffer());
    await new Promise((done) => {
      const check = () => this.connection.iceGatheringState === "complete" && done();
      this.connection.addEventListener("icegatheringstatechange", check);
      setTimeout(done, 1500); // a network that answers nothing
      check();
    });
    this.send({ offer: this.connection.localDescription.sdp });
  }

  answer(sdp) {
    return this.connection.setRemoteDescription({ type: "answer", sdp }).catch(() => this.fail());
  }

  close() {
    clearTimeout(this.timer);
    this.connection.close();
  }
}

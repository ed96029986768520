// The live page in a real browser with a WAV as its microphone: when sound went in, when lips moved, how far sound and picture are apart.
// usage: node live_delay.cjs '{"url": ..., "wav": "file.wav", "seconds": 60, "mouth": [x, y, width, height]}'; one line of JSON, times in ms of the wall clock.
const { launch } = require("./chromium.cjs");

async function main(job) {
  const browser = await launch(job.wav, job.flags);
  try {
    const context = await browser.newContext({ viewport: { width: job.width ?? 1000, height: 800 }, permissions: ["microphone"] });
    const page = await context.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.addInitScript(watch, job);
    await page.goto(job.url);
    await page.click("#begin");
    await page.waitForFunction(() => document.getElementById("video").videoWidth > 0, null, { timeout: 60000 });
    await page.evaluate(start, job);
    await page.click("#microphone");
    await new Promise((done) => setTimeout(done, 1000 * job.seconds));
    return { ...(await page.evaluate(() => window.seen)), errors, way: await page.evaluate(() => document.getElementById("way").value) };
  } finally {
    await browser.close();
  }
}

// Keeps the page's connection, and notes every block of sound that the page sends: when it was sent, its length, and its loudest sample.
function watch() {
  window.seen = { sent: [], frames: [], stats: [] };
  const Real = window.RTCPeerConnection;
  window.RTCPeerConnection = function (...given) {
    return (window.connection = new Real(...given));
  };
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (data) {
    if (data instanceof ArrayBuffer && data.byteLength < 50000 && data.byteLength % 4 === 0) {
      const first = new Float32Array(data).findIndex((sample) => Math.abs(sample) > 0.02);
      window.seen.sent.push([performance.timeOrigin + performance.now(), data.byteLength / 4, first]);
    }
    return send.call(this, data);
  };
}

// Notes every frame that is shown, with how dark its mouth is, and the connection's own figures every second.
function start({ mouth: [x, y, width, height] }) {
  const video = document.getElementById("video");
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const look = (now, about) => {
    pen.drawImage(video, x, y, width, height, 0, 0, width, height);
    const { data } = pen.getImageData(0, 0, width, height);
    let dark = 0;
    for (let i = 0; i < data.length; i += 4) dark += data[i] + data[i + 1] + data[i + 2] < 210;
    const wall = (time) => performance.timeOrigin + time;
    window.seen.frames.push([wall(about.expectedDisplayTime), wall(about.receiveTime), about.rtpTimestamp, (100 * dark) / (width * height)]);
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
  setInterval(async () => {
    const said = {};
    for (const report of (await window.connection.getStats()).values()) {
      if (report.type !== "inbound-rtp") continue;
      said[report.kind] = Object.fromEntries(
        ["estimatedPlayoutTimestamp", "jitterBufferDelay", "jitterBufferEmittedCount", "framesDropped", "framesDecoded", "freezeCount", "concealedSamples", "totalSamplesReceived"]
          .map((name) => [name, report[name]]));
    }
    window.seen.stats.push(said);
  }, 1000);
}

main(JSON.parse(process.argv[2])).then((seen) => console.log(JSON.stringify(seen)), (error) => { console.error(error); process.exit(1); });

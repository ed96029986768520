// The live page in a real browser, with a WAV as its microphone; says what was seen as one line of JSON.
// usage: node live_page.cjs '{"url": ..., "wav": "file.wav", "way": "webrtc" or "mp4", "width": 390, "shot": "file.png"}'
const { launch } = require("./chromium.cjs");

const PATIENCE_MS = 120000;

async function main(job) {
  const browser = await launch(job.wav);
  try {
    const context = await browser.newContext({
      viewport: { width: job.width, height: job.height ?? 844 }, permissions: job.refuse ? [] : ["microphone"],
      colorScheme: job.width > 500 ? "light" : "dark",
    });
    const page = await context.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.addInitScript(watch, job);
    await page.goto(job.url);
    if (job.way) await page.evaluate((way) => { document.getElementById("way").value = way; }, job.way);
    const wait = (check) => page.waitForFunction(check, null, { timeout: PATIENCE_MS });
    const isBad = () => document.getElementById("note").classList.contains("bad");
    if (job.gone) await context.setOffline(true);
    await page.focus("#begin");
    await page.keyboard.press("Enter");
    if (job.refused || job.gone) {
      await wait(isBad);
      return { ...(await page.evaluate(about)), errors };
    }
    await wait(() => document.getElementById("video").videoWidth > 0);
    const focused = await page.evaluate(() => document.activeElement.id);
    await page.click("#microphone");
    if (job.unplug) {
      await wait(() => document.getElementById("microphone").classList.contains("on"));
      await page.evaluate(() => window.heard.getAudioTracks()[0].dispatchEvent(new Event("ended")));
    }
    if (job.refuse || job.unplug) await wait(isBad);
    else await wait(() => document.getElementById("delay").textContent !== "–" && document.getElementById("state").textContent === "Speaking");
    if (job.portrait) {
      await page.setInputFiles("#portrait", job.portrait);
      await wait(() => document.getElementById("state").textContent !== "Speaking");
      await wait(() => document.getElementById("state").textContent === "Speaking");
    }
    if (job.shot) await page.screenshot({ path: job.shot, fullPage: true });
    const seen = await page.evaluate(look);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await page.click("#interrupt");
    return { ...seen, errors, overflow, focused };
  } finally {
    await browser.close();
  }
}

// Keeps the page's connections, and refuses the microphone if the job says so.
function watch(job) {
  const Real = window.RTCPeerConnection;
  window.connections = [];
  if (job.noRtc) {
    delete window.RTCPeerConnection;
    return;
  }
  window.RTCPeerConnection = function (...given) {
    const connection = new Real(...given);
    window.connections.push(connection);
    return connection;
  };
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wanted) => (window.heard = await ask(wanted));
  if (job.refuse) navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("no", "NotAllowedError"));
}

function about() {
  return { note: document.getElementById("note").textContent, startable: document.getElementById("begin").checkVisibility(), focused: document.activeElement.id };
}

async function look() {
  const text = (id) => document.getElementById(id).value ?? document.getElementById(id).textContent;
  const seen = { width: document.getElementById("video").videoWidth, way: text("way"), note: text("note"), delay: text("delay") };
  for (const report of (await window.connections[0]?.getStats())?.values() ?? []) {
    if (report.type === "inbound-rtp") seen[report.kind] = report.estimatedPlayoutTimestamp;
  }
  return seen;
}

main(JSON.parse(process.argv[2])).then((seen) => console.log(JSON.stringify(seen)), (error) => { console.error(error); process.exit(1); });

// The pack in a real browser: loads a prompt into the page, runs it, and says what was seen, as one line of JSON.
// usage: node browser.cjs '{"url": ..., "prompt": {...}, "vue": true, "shot": "file.png"}'
const { launch } = require("../chromium.cjs");

async function main(job) {
  const browser = await launch();
  try {
    const page = await browser.newPage({ viewport: { width: 1600, height: 1000 } });
    const errors = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    const settings = { "Comfy.TutorialCompleted": true, "Comfy.VueNodes.Enabled": job.vue, "Comfy.Graph.CanvasInfo": false, "LiteGraph.Canvas.MinFontSizeForLOD": 0 };
    await page.request.post(`${job.url}/api/settings`, { data: settings });
    await page.goto(job.url);
    await ready(page);
    if (job.graph) await page.evaluate((graph) => app.loadGraphData(graph), job.graph);
    else await page.evaluate((prompt) => app.loadApiJson(prompt, "test"), job.prompt);
    await page.waitForTimeout(1000);
    if (job.measure) await page.evaluate(measure);
    if (job.measure || job.shot) await page.evaluate(fit);
    const seen = job.run === false ? {} : await run(page, job);
    const graph = await page.evaluate(() => app.graph.serialize());
    if (job.measure || job.shot) await page.evaluate(fit);
    await page.waitForTimeout(700);
    if (job.shot) await page.screenshot({ path: job.shot });
    const missing = await page.evaluate(() => app.graph.nodes.filter((n) => !n.constructor.nodeData).map((n) => n.type));
    const gap = await page.evaluate(gapBelowPrompt);
    const boxes = await page.evaluate(boxesOfNodes);
    return { ...seen, errors, missing, gap, boxes, nodes: graph.nodes.length, graph: job.keepGraph ? graph : undefined };
  } finally {
    await browser.close();
  }
}

// Every node as high as it needs to be, with room below for what it shows.
function measure() {
  const room = { LoadImage: 100, LoadAudio: 10, SaveVideo: 260 };
  for (const node of app.graph.nodes) node.setSize([350, node.computeSize()[1] + (room[node.type] ?? 10)]);
}

// Left, top, right and bottom of each node as it is drawn, its title included, and of each group.
function boxesOfNodes() {
  const { ds } = app.canvas;
  const nodes = app.graph.nodes.map((node) => {
    const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    const box = [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]];
    return [node.id, drawn ? [box[0], box[1], box[2], box[1] + drawn.height / ds.scale] : box];
  });
  const groups = app.graph.groups.map(({ pos, size }) => [pos[0], pos[1], pos[0] + size[0], pos[1] + size[1]]);
  return { nodes: Object.fromEntries(nodes), groups };
}

// Pixels between the text box of Nodes 2.0 and the input below it; undefined in the classic canvas.
function gapBelowPrompt() {
  const box = document.querySelector("[data-node-id] .lg-node-widgets textarea");
  const bottom = box?.getBoundingClientRect().bottom;
  const tops = [...document.querySelectorAll("[data-testid=node-widget]")].map((row) => row.getBoundingClientRect().top).filter((top) => top > bottom - 2);
  return box ? (Math.min(...tops) - bottom) / app.canvas.ds.scale : undefined;
}

async function ready(page) {
  const loaded = () => window.app?.graph && window.app.extensions?.some((extension) => extension.name === "livetalk.live");
  await page.waitForFunction(loaded, null, { timeout: 60000 });
  await page.waitForTimeout(1500);
}

// The whole graph into view, beside the page's own bars.
function fit() {
  const boxes = app.graph.nodes.map((n) => [n.pos[0], n.pos[1] - 40, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]);
  const [x0, y0] = [0, 1].map((i) => Math.min(...boxes.map((b) => b[i])));
  const [x1, y1] = [2, 3].map((i) => Math.max(...boxes.map((b) => b[i])));
  const scale = Math.min(1480 / (x1 - x0), 860 / (y1 - y0), 1);
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [80 / scale - x0, 110 / scale - y0];
  app.canvas.setDirty(true, true);
}

async function run(page, job) {
  await listen(page);
  await page.evaluate(() => app.queuePrompt(0, 1));
  if (job.reload) await reload(page, job);
  const sample = () => page.evaluate(() => {
    const video = document.querySelector(".livetalk-player video");
    if (video) {
      seen.times.push(video.currentTime);
      seen.audio = Math.max(seen.audio, video.webkitAudioDecodedByteCount ?? 0);
      seen.frames = Math.max(seen.frames ?? 0, video.getVideoPlaybackQuality().totalVideoFrames);
      const shown = video.parentElement.nextElementSibling?.textContent ?? "";
      if (shown.includes("fps")) seen.texts.push(shown);
      seen.visible = video.getBoundingClientRect().width > 50;
    }
    return { ...seen };
  });
  const end = Date.now() + (job.timeout_s || 120) * 1000;
  let seen = await sample();
  let playedDuring = 0;
  while (Date.now() < end && !seen.success && !seen.error) {
    await page.waitForTimeout(150);
    seen = await sample();
    if (!seen.success && seen.times.length) playedDuring = Math.max(playedDuring, seen.times.at(-1));
    if (job.shotDuring && playedDuring > 0.3 && !seen.shot) { await page.screenshot({ path: job.shotDuring }); seen.shot = true; }
  }
  await page.waitForTimeout(2500);
  seen = await sample();
  return { ...seen, playedDuring, times: [seen.times[0] ?? 0, seen.times.at(-1) ?? 0], texts: seen.texts.slice(-1) };
}

// The page anew while the prompt runs: it is to find the live stream again by itself.
async function reload(page, job) {
  await page.waitForFunction(() => document.querySelector(".livetalk-player video")?.currentTime > 0, null, { timeout: 60000 });
  await page.reload();
  await ready(page);
  await page.evaluate((prompt) => app.loadApiJson(prompt, "test"), job.prompt);
  await page.evaluate(fit);
  await listen(page);
}

async function listen(page) {
  await page.evaluate(() => {
    window.seen = { progress: 0, previews: 0, texts: [], times: [], audio: 0 };
    app.api.addEventListener("progress_state", ({ detail }) => {
      for (const node of Object.values(detail.nodes)) if (node.max > 1) seen.progress = Math.max(seen.progress, node.value / node.max);
    });
    app.api.addEventListener("b_preview", () => seen.previews++);
    app.api.addEventListener("executing", ({ detail }) => detail === null && (seen.done = true));
    app.api.addEventListener("execution_error", ({ detail }) => (seen.error = detail.exception_message));
    app.api.addEventListener("execution_success", () => (seen.success = true));
  });
}

main(JSON.parse(process.argv[2])).then(
  (answer) => console.log(JSON.stringify(answer)),
  (error) => { console.error(error); process.exit(1); },
);

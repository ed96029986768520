// A day's use in a real browser: what plays where, and for how long. Prints one line of JSON for each thing tried.
// usage: node day.cjs URL classic|vue FOLDER_OF_WORKFLOWS FOLDER_FOR_SCREENSHOTS [templates] [quick start, ...] [alone] [tabs] [subgraph]
const { launch } = require("../chromium.cjs");
const fs = require("fs");
const [url, renderer, folder, shots, ...parts] = process.argv.slice(2);
const NAMES = ["quick start", "full graph", "two speakers", "upscaled", "batch", "long video"];
const asked = (part) => !parts.length || parts.includes(part);
const template = (word) => JSON.parse(fs.readFileSync(`${folder}/${fs.readdirSync(folder).find((name) => name.includes(word) && name.endsWith(".json"))}`));

async function main() {
  const browser = await launch();
  const page = await browser.newPage({ viewport: { width: 1600, height: 1000 } });
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.request.post(`${url}/api/settings`, { data: { "Comfy.TutorialCompleted": true, "Comfy.VueNodes.Enabled": renderer === "vue", "LiteGraph.Canvas.MinFontSizeForLOD": 0 } });
  await open(page);
  for (const name of NAMES.filter(asked)) {
    await load(page, template(name), name);
    await tell(page, name, await run(page, { stopAfter_s: name === "long video" ? 9 : 0 }));
  }
  const full = template("full graph");
  if (asked("alone")) await runAlone(page, full);
  if (asked("tabs")) await changeAndReload(page, full);
  if (asked("subgraph")) await lineInSubgraph(page, full);
  console.log(JSON.stringify({ errors }));
  await browser.close();
}

async function runAlone(page, full) {
  await load(page, reseeded(without(full, [9, 10]), 3));
  await tell(page, "preview alone: decoder and saver deleted", await run(page));
  await load(page, reseeded(muted(full, [9, 10]), 4));
  await tell(page, "preview alone: decoder and saver muted", await run(page));
  await load(page, reseeded(full, 5));
  await tell(page, "partial execution: play button of Live Preview", await run(page, { targets: ["8"] }));
  await tell(page, "then the whole graph: nothing is computed again", await run(page));
}

async function changeAndReload(page, full) {
  await load(page, reseeded(full, 7));
  await tell(page, "before the change of tab", await run(page));
  await changeTab(page);
  await tell(page, "change of tab and back", { ...(await played(page)), texts: await linesOfSpeech(page) });
  await page.reload();
  await ready(page);
  await page.waitForTimeout(2500);
  await tell(page, "reload after the run", { ...(await played(page)), texts: await linesOfSpeech(page) });
}

async function lineInSubgraph(page, full) {
  await load(page, reseeded(full, 6));
  await page.evaluate(() => { app.graph.convertToSubgraph(new Set([app.graph.getNodeById(3)])); });
  const seen = await run(page, {});
  await page.evaluate(() => { app.canvas.setGraph(app.graph.nodes.find((node) => node.subgraph).subgraph); });
  await page.waitForTimeout(2000);
  await tell(page, "Audio Embedding's line inside a subgraph", { done: seen.done, texts: await linesOfSpeech(page) });
}

function linesOfSpeech(page) {
  return page.evaluate(() => [...document.querySelectorAll("div")].filter((e) => !e.children.length && /frames, .* speaker/.test(e.textContent)).map((e) => e.textContent));
}

async function open(page) {
  await page.goto(url);
  await ready(page);
  if (!asked("templates")) return;
  await page.evaluate(() => app.extensionManager?.command?.execute("Comfy.BrowseTemplates"));
  await page.waitForTimeout(2000);
  const found = {};
  for (const word of ["talk", "lip sync", "avatar"]) {
    await page.locator("[role=dialog] input").first().fill(word);
    await page.waitForTimeout(1500);
    found[word] = await page.evaluate(() => [...document.querySelectorAll("[role=dialog] *")].filter((e) => !e.children.length && e.textContent.startsWith("LiveTalk")).map((e) => e.textContent));
    await page.screenshot({ path: `${shots}/templates_${word.replace(" ", "_")}.png` });
  }
  console.log(JSON.stringify({ what: "templates found", found: Object.fromEntries(Object.entries(found).map(([word, titles]) => [word, new Set(titles).size])) }));
  await page.keyboard.press("Escape");
  await page.waitForTimeout(500);
}

async function ready(page) {
  await page.waitForFunction(() => window.app?.graph && window.app.extensions?.some((extension) => extension.name === "livetalk.live"), null, { timeout: 60000 });
  await page.waitForTimeout(1500);
}

async function load(page, graph, name) {
  await page.evaluate((graph) => app.loadGraphData(graph), graph);
  await page.waitForTimeout(1200);
  if (name) await page.screenshot({ path: `${shots}/${name.replace(" ", "_")}_open.png` });
}

async function run(page, { targets, stopAfter_s } = {}) {
  await page.evaluate((targets) => {
    window.seen = { live: 0, start: performance.now() };
    const end = (word) => (event) => (seen.done ??= word + (event.detail?.exception_message ?? ""));
    app.api.addEventListener("execution_success", end("success"), { once: true });
    app.api.addEventListener("execution_error", end("error: "), { once: true });
    app.api.addEventListener("execution_interrupted", end("stopped"), { once: true });
    app.queuePrompt(0, 1, targets);
  }, targets);
  const end = Date.now() + 60000;
  while (Date.now() < end && !(await page.evaluate(() => {
    const video = document.querySelector(".livetalk-player video");
    if (video && !seen.done && video.src.startsWith("blob")) seen.live = Math.max(seen.live, video.currentTime);
    return seen.done;
  }))) {
    await page.waitForTimeout(150);
    if (stopAfter_s && (await page.evaluate(() => performance.now() - seen.start)) > 1000 * stopAfter_s) await page.evaluate(() => app.api.interrupt());
  }
  await page.waitForTimeout(3500);
  const { done, live, took } = await page.evaluate(() => ({ ...seen, took: performance.now() - seen.start - 3500 }));
  return { done, took_s: +(took / 1000).toFixed(1), liveUntil_s: +live.toFixed(2), ...(await played(page)) };
}

// What the player shows now, and what happens when it is played again from the start.
async function played(page) {
  return page.evaluate(async () => {
    const video = document.querySelector(".livetalk-player video");
    if (!video) return { player: false };
    const stood = +video.currentTime.toFixed(2);
    video.muted = true;
    video.currentTime = 0;
    await video.play().catch(() => {});
    await new Promise((resolve) => { video.addEventListener("ended", resolve, { once: true }); setTimeout(resolve, 5000); });
    const line = video.parentElement.nextElementSibling;
    return { stoodAt_s: stood, length_s: +(video.duration || 0).toFixed(2), replayedTo_s: +video.currentTime.toFixed(2), audio: video.webkitAudioDecodedByteCount > 0,
      line: line.textContent, oneLine: line.scrollWidth <= line.clientWidth + 1, width: Math.round(video.clientWidth) };
  });
}

async function changeTab(page) {
  const first = await page.evaluate(() => app.graph.id);
  await page.evaluate(() => app.extensionManager.command.execute("Comfy.NewBlankWorkflow"));
  await page.waitForTimeout(1200);
  await page.evaluate(() => app.extensionManager.command.execute("Workspace.NextOpenedWorkflow").catch?.(() => {}));
  await page.evaluate(() => app.extensionManager.command.execute("Workspace.PreviousOpenedWorkflow").catch?.(() => {}));
  for (let k = 0; k < 14 && (await page.evaluate(() => app.graph.id)) !== first; k++) {
    await page.evaluate(() => app.extensionManager.command.execute("Workspace.PreviousOpenedWorkflow"));
    await page.waitForTimeout(900);
  }
  await page.waitForTimeout(2500);
}

async function tell(page, what, seen) {
  await page.screenshot({ path: `${shots}/${what.replace(/\W+/g, "_").slice(0, 40)}.png` });
  console.log(JSON.stringify({ what, ...seen }));
}

const without = (graph, ids) => ({ ...graph, nodes: graph.nodes.filter((node) => !ids.includes(node.id)), links: graph.links.filter((link) => !ids.includes(link[1]) && !ids.includes(link[3])) });
const muted = (graph, ids) => ({ ...graph, nodes: graph.nodes.map((node) => (ids.includes(node.id) ? { ...node, mode: 2 } : node)) });
const reseeded = (graph, seed) => ({ ...graph, nodes: graph.nodes.map((node) => (node.id === 4 ? { ...node, widgets_values: [seed, ...node.widgets_values.slice(1)], widgets_values_named: { ...node.widgets_values_named, seed } } : node)) });

main().catch((error) => { console.error(error); process.exit(1); });

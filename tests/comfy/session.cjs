// LiveTalk Live Session in a real browser with a WAV as its microphone: what the node shows, as one line of JSON.
// usage: node session.cjs '{"url": ..., "prompt": {...}, "node": 5, "wav": "file.wav", "vue": false, "shot": "file.png"}'
const { launch } = require("../chromium.cjs");

const PATIENCE_MS = 90000;

async function main(job) {
  const browser = await launch(job.wav);
  try {
    const context = await browser.newContext({ viewport: { width: 1600, height: 1000 }, permissions: ["microphone"] });
    const page = await context.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.request.post(`${job.url}/api/settings`, { data: { "Comfy.TutorialCompleted": true, "Comfy.VueNodes.Enabled": job.vue, "Comfy.Minimap.Visible": false } });
    await open(page, job);
    await page.evaluate(() => app.queuePrompt(0, 1));
    const wait = (check, given) => page.waitForFunction(check, given, { timeout: PATIENCE_MS });
    const playing = () => document.querySelector(".livetalk-session video")?.currentTime > 1;
    await wait(playing);
    const seen = { errors, opened: await count(page, job) };

    const microphone = page.locator(".livetalk-session button", { hasText: "Microphone" });
    await microphone.evaluate((button) => button.click());
    await wait(() => /lips \d/.test(document.querySelector(".livetalk-session")?.textContent));
    await page.waitForTimeout(1500);
    if (job.shot) await page.screenshot({ path: job.shot });
    seen.text = await page.evaluate(() => [...document.querySelectorAll(".livetalk-session div")].at(-1).textContent);

    const graph = await page.evaluate(() => app.graph.serialize());
    await page.evaluate(() => app.loadGraphData({ ...app.graph.serialize(), nodes: [], links: [], id: crypto.randomUUID() }));
    await page.waitForTimeout(500);
    seen.afterTabChange = await count(page, job);
    await page.evaluate((graph) => app.loadGraphData(graph), graph);
    await wait(playing);
    seen.afterReturn = await count(page, job);
    await page.evaluate((id) => app.graph.remove(app.graph.getNodeById(id)), job.node);
    await page.waitForTimeout(1500);
    seen.afterRemoval = await count(page, job);
    return seen;
  } finally {
    await browser.close();
  }
}

async function open(page, job) {
  await page.goto(job.url);
  const loaded = () => window.app?.graph && window.app.extensions?.some((extension) => extension.name === "livetalk.session");
  await page.waitForFunction(loaded, null, { timeout: 60000 });
  await page.waitForTimeout(1500);
  await page.evaluate((prompt) => app.loadApiJson(prompt, "test"), job.prompt);
  await page.waitForTimeout(1000);
  await page.evaluate(() => app.loadGraphData({ ...app.graph.serialize(), id: crypto.randomUUID() })); // as a saved workflow has one
  await page.waitForTimeout(500);
  await page.evaluate((id) => {
    const room = { LoadImage: 260, LiveTalkReferenceConditioning: 230, LiveTalkLiveSession: 300 };
    app.graph.nodes.forEach((node, index) => {
      node.setSize([360, node.computeSize()[1] + (room[node.type] ?? 10)]);
      node.pos = [40 + 380 * index, 80];
    });
    app.canvas.ds.scale = 0.95;
    app.canvas.ds.offset = [40, 60];
    app.canvas.setDirty(true, true);
  }, job.node);
}

async function count(page, job) {
  return (await (await page.request.get(`${job.url}/livetalk/sessions`)).json()).length;
}

main(JSON.parse(process.argv[2])).then((seen) => console.log(JSON.stringify(seen)), (error) => { console.error(error); process.exit(1); });

// The page's own modules, without a browser: tests/test_page.py runs this file.
import assert from "node:assert/strict";
import { test } from "node:test";

let played = 0;
globalThis.document = {
  createElement: () => ({
    style: {}, src: "", textContent: "", currentTime: 0,
    append() {}, addEventListener() {}, removeAttribute() { this.src = ""; }, load() {}, play: async () => { played++; },
  }),
};
globalThis.location = { href: "http://127.0.0.1:8188/" };
globalThis.WebSocket = class { close() {} };
const { LivePlayer } = await import("../web/player.mjs");
const { findNode, nodeOf } = await import("../web/graph.mjs");

const PACE = { frames: 63, total: 63, ttff_s: 1.84, fps: 7.63, rtf: 3.277, note: "steps=2 differ by 3 %" };
const FILE = { filename: "a.mp4", subfolder: "", type: "temp", pace: PACE };
const LINE = "first 1.8 s · 7.6 fps · RTF 3.28 · 63/63 frames";
const player = () => { played = 0; return new LivePlayer((path) => path); };

test("a player that was made anew shows the finished video with its statistics, and does not start it", () => {
  const made = player();
  made.show(FILE);
  assert.equal(made.video.src, "/view?filename=a.mp4&subfolder=&type=temp");
  assert.equal(made.line.textContent, LINE);
  assert.equal(made.note.textContent, PACE.note);
  assert.equal(played, 0);
});

test("a video that was finished before anything could be played live is played once, from its file", () => {
  for (const begin of [(made) => made.showCrop({ filename: "crop.png" }), (made) => made.watch("c")]) {
    const made = player();
    begin(made);
    made.finish("c", FILE);
    made.show(FILE);
    assert.deepEqual([played, made.line.textContent], [1, LINE]);
  }
});

test("a video that plays live is not replaced while it plays", () => {
  const made = player();
  made.watch("c");
  made.receive(made.run, { number: 0, frames: 28, total: 63, ttff_s: 1, fps: 10, rtf: 2.5 }, new ArrayBuffer(1));
  assert.equal(made.line.textContent, "first 1.0 s · 10.0 fps · RTF 2.50 · 28/63 frames · 4 s left");
  made.say("28 of 63 frames\nsteps=2 differ by 3 %");
  assert.deepEqual([made.line.textContent.slice(0, 5), made.note.textContent], ["first", "steps=2 differ by 3 %"]);
  made.finish("c", FILE);
  made.show(FILE);
  assert.deepEqual([played, made.shown, made.run.channel], [0, null, "c"]);
});

test("what a running node says before its first frames stands in its line", () => {
  const made = player();
  made.showCrop({ filename: "crop.png" });
  made.say("step 2 of 4, 0 of 63 frames");
  assert.equal(made.line.textContent, "step 2 of 4, 0 of 63 frames");
});

test("a run that was stopped says so, also when late fragments come", () => {
  const made = player();
  const stats = { number: 0, frames: 28, total: 63, ttff_s: 1, fps: 10, rtf: 2.5 };
  made.stop();
  assert.doesNotMatch(made.line.textContent, /topped/);
  made.showCrop({ filename: "crop.png" });
  made.stop();
  assert.equal(made.line.textContent, "Stopped before the first frame");
  made.watch("c");
  made.receive(made.run, stats, new ArrayBuffer(1));
  made.stop();
  assert.match(made.line.textContent, /28\/63 frames · stopped$/);
  made.receive(made.run, { ...stats, number: 1, frames: 32 }, new ArrayBuffer(1));
  assert.match(made.line.textContent, /32\/63 frames · stopped$/);
});

test("nodes are found in subgraphs, and in the workflow that was queued only", () => {
  const inner = { getNodeById: (id) => (id === 7 ? "inner" : null) };
  const rootGraph = { id: "w", getNodeById: (id) => ({ 3: { subgraph: inner }, 7: "outer" })[id] };
  assert.deepEqual(["7", "3:7", "3:8", "7:7"].map((id) => findNode(rootGraph, id)), ["outer", "inner", undefined, undefined]);
  assert.deepEqual(["w", "", "other"].map((workflow) => nodeOf({ rootGraph }, { node: "7", workflow })), ["outer", "outer", undefined]);
});

// The player of Live Preview and Generate, the line of text on Audio Embedding and the loader, and size inputs that hide.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { findNode, nodeOf, rootGraph } from "./graph.mjs";
import { colorWires, fixPrompt, fixPromptsVue } from "./looks.mjs";
import { LivePlayer } from "./player.mjs";
import { sizesOf } from "./sizes.mjs";

const WITH_PLAYER = ["LiveTalkLivePreview", "LiveTalkGenerate"];
const WITH_TEXT = ["LiveTalkAudioEmbedding", "LiveTalkModelLoader"];
const WITH_SIZE = ["LiveTalkReferenceConditioning", "LiveTalkGenerate"];
const players = new WeakMap();
const texts = new WeakMap();
const lastText = new Map(JSON.parse(sessionStorage.getItem("livetalk.texts") ?? "[]")); // by workflow and node: a change of tab makes widgets anew
const lastVideo = new Map();
const SHOWN = { serialize: false, hideOnZoom: false, hideInPanel: true, surfaces: { canvas: "shown", vueNode: "shown", panel: "never" } };
const MOST_TEXTS = 200;
let joining = 0;

app.registerExtension({
  name: "livetalk.live",

  nodeCreated(node) {
    if (WITH_PLAYER.includes(node.comfyClass)) addPlayer(node);
    if (WITH_TEXT.includes(node.comfyClass)) addText(node);
    if (WITH_SIZE.includes(node.comfyClass)) {
      hideSize(node);
      fixPrompt(node);
    }
    if (node.comfyClass?.startsWith("LiveTalk")) restoreSoon();
  },

  loadedGraphNode(node) {
    if (node.comfyClass?.startsWith("LiveTalk")) fillNumbers(node);
    if (WITH_SIZE.includes(node.comfyClass)) showSize(node);
  },

  setup() {
    colorWires(app.canvas);
    app.ui?.settings?.addEventListener?.("Comfy.ColorPalette.change", () => setTimeout(() => colorWires(app.canvas), 200));
    api.addEventListener("livetalk.live", (event) => watch(event.detail));
    api.addEventListener("livetalk.text", (event) => say(event.detail));
    api.addEventListener("executed", (event) => showResult(event.detail));
  },
});

function addPlayer(node) {
  const player = new LivePlayer((path) => api.apiURL(path));
  players.set(node, player);
  const widget = node.addDOMWidget("livetalk_player", "LIVETALK_PLAYER", player.element, { ...SHOWN, getMinHeight: () => 240 });
  widget.serialize = false; // `SHOWN.serialize` keeps its empty value out of the prompt, this out of saved workflows
  const removed = node.onRemoved;
  node.onRemoved = function () {
    player.close();
    removed?.apply(this, arguments);
  };
}

// Players and lines that were created after a run, by a reload or a change of tab, show what is known. Nodes get their ids after creation.
function restoreSoon() {
  clearTimeout(joining);
  joining = setTimeout(async () => {
    colorWires(app.canvas);
    fixPromptsVue(allNodes(rootGraph(app)).filter((node) => WITH_SIZE.includes(node.comfyClass)));
    inThisGraph(lastText, (node, text) => write(texts.get(node), text));
    inThisGraph(lastVideo, (node, file) => players.get(node)?.show(file));
    const response = await api.fetchApi("/livetalk/live");
    if (!response.ok) return;
    for (const channel of await response.json()) watch(channel);
  }, 500);
}

function addText(node) {
  const line = document.createElement("div");
  line.style.cssText = "font: 12px sans-serif; color: var(--descrip-text, #999); text-align: center; overflow: hidden";
  texts.set(node, line);
  const widget = node.addDOMWidget("livetalk_text", "LIVETALK_TEXT", line, { ...SHOWN, getMinHeight: () => 18, getMaxHeight: () => 18 });
  widget.serialize = false;
}

// Older workflows hold an empty value for the player, in the place of an input that was added since then. A number cannot be empty.
function fillNumbers(node) {
  const { required, optional } = node.constructor.nodeData?.input ?? {};
  for (const widget of node.widgets ?? []) {
    const value = { ...required, ...optional }[widget.name]?.[1]?.default;
    if (widget.value === "" && typeof value === "number") widget.value = value;
  }
}

// Width and height are for size "custom" only.
function hideSize(node) {
  const size = node.widgets?.find((widget) => widget.name === "size");
  if (!size) return;
  const callback = size.callback;
  size.callback = function () {
    callback?.apply(this, arguments);
    showSize(node);
  };
  setTimeout(() => showSize(node));
}

function showSize(node) {
  const size = node.widgets?.find((widget) => widget.name === "size");
  if (!size) return;
  const all = (size.livetalkAll ??= [...size.options.values]);
  size.options.values = () => sizesOf(modelOf(node), all).concat(all.includes(size.value) ? [] : [size.value]);
  const custom = size.value === "custom";
  for (const widget of node.widgets ?? []) {
    if (widget.name !== "width" && widget.name !== "height") continue;
    widget.hidden = !custom;
    if (widget.options) widget.options.hidden = !custom; // read by Nodes 2.0
  }
  node.setDirtyCanvas?.(true, true);
}

// The model chosen here, or in the loader that the engine input leads to.
function modelOf(node) {
  const own = node.widgets?.find((widget) => widget.name === "model");
  if (own) return own.value;
  const input = node.inputs?.findIndex((each) => each.name === "engine") ?? -1;
  return input < 0 ? undefined : node.getInputNode?.(input)?.widgets?.find((widget) => widget.name === "model")?.value;
}

function watch(channel) {
  const player = players.get(nodeOf(app, channel));
  if (channel.ended && channel.file) player?.finish(channel.channel, channel.file);
  else if (channel.mime && !channel.ended) player?.watch(channel.channel);
  else if (channel.ended) player?.stop();
  else player?.showCrop(channel.crop);
}

// What a node that runs has to say: loading, the steps of the first chunk, and the error of a lossy setting.
function say({ text, ...from }) {
  const node = nodeOf(app, from);
  players.get(node)?.say(text);
  write(texts.get(node), text);
}

function showResult(detail) {
  const id = detail.display_node ?? detail.node;
  const node = findNode(rootGraph(app), id);
  const text = [detail.output?.text ?? []].flat().join("");
  if (text) {
    lastText.set(keyOf(id), text);
    sessionStorage.setItem("livetalk.texts", JSON.stringify([...lastText].slice(-MOST_TEXTS))); // a reload of the page does, too
    write(texts.get(node), text);
  }
  const file = detail.output?.livetalk_video?.at(-1);
  if (file) {
    lastVideo.set(keyOf(id), file);
    players.get(node)?.show(file);
  }
}

function write(line, text) {
  if (line) line.textContent = text;
}

function allNodes(graph) {
  return (graph?.nodes ?? []).flatMap((node) => [node, ...allNodes(node.subgraph)]);
}

function keyOf(id) {
  return `${rootGraph(app)?.id ?? ""}/${id}`;
}

// Calls `use` with each node of this workflow for which something is known.
function inThisGraph(known, use) {
  for (const [key, value] of known) if (key.startsWith(keyOf(""))) use(findNode(rootGraph(app), key.slice(keyOf("").length)), value);
}

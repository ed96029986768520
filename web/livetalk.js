// Live Preview's player, and the line of text on Audio Embedding.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { LivePlayer } from "./player.mjs";

const PREVIEW = "LiveTalkLivePreview";
const WITH_TEXT = "LiveTalkAudioEmbedding";
const players = new WeakMap();
const texts = new WeakMap();
let joining = 0;

app.registerExtension({
  name: "livetalk.live",

  nodeCreated(node) {
    if (node.comfyClass === PREVIEW) addPlayer(node);
    if (node.comfyClass === WITH_TEXT) addText(node);
  },

  setup() {
    api.addEventListener("livetalk.live", (event) => watch(event.detail));
    api.addEventListener("executed", (event) => showText(event.detail));
  },
});

function addPlayer(node) {
  const player = new LivePlayer((path) => api.apiURL(path));
  players.set(node, player);
  node.addDOMWidget("live", "LIVETALK_PLAYER", player.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => 220,
  });
  const removed = node.onRemoved;
  node.onRemoved = function () {
    player.close();
    removed?.apply(this, arguments);
  };
  joinSoon();
}

// A player created while its prompt runs, for example after a reload, joins the stream. Nodes get their ids after creation.
function joinSoon() {
  clearTimeout(joining);
  joining = setTimeout(async () => {
    const response = await api.fetchApi("/livetalk/live");
    if (!response.ok) return;
    for (const channel of await response.json()) if (!channel.ended) watch(channel);
  }, 500);
}

function addText(node) {
  const line = document.createElement("div");
  line.style.cssText = "font: 12px sans-serif; color: var(--descrip-text, #999); text-align: center; overflow: hidden";
  texts.set(node, line);
  node.addDOMWidget("length", "LIVETALK_TEXT", line, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => 18,
    getMaxHeight: () => 18,
  });
}

// A channel names a node and the workflow it was queued from; prompts queued over the API name no workflow.
function watch(channel) {
  const root = app.rootGraph ?? app.graph;
  if (channel.workflow && root?.id && channel.workflow !== root.id) return;
  players.get(findNode(root, channel.node))?.watch(channel.channel);
}

function showText(detail) {
  const line = texts.get(findNode(app.rootGraph ?? app.graph, detail.display_node ?? detail.node));
  const text = detail.output?.text;
  if (line && text) line.textContent = Array.isArray(text) ? text.join("") : text;
}

// "7" is a node of the graph itself, "3:7" one inside the subgraph of node 3.
function findNode(graph, id) {
  const path = String(id).split(":").map(Number);
  const last = path.pop();
  for (const step of path) graph = graph?.getNodeById(step)?.subgraph;
  return graph?.getNodeById(last) ?? {};
}

// LiveTalk Live Session: the avatar in its node, with microphone, typed text and interruption.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { nodeOf } from "./graph.mjs";
import { LiveSession } from "./session.mjs";

const NODE = "LiveTalkLiveSession";
const SHOWN = { serialize: false, hideOnZoom: false, hideInPanel: true, surfaces: { canvas: "shown", vueNode: "shown", panel: "never" } };
const sessions = new WeakMap();
let joining = 0;

app.registerExtension({
  name: "livetalk.session",

  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const session = new LiveSession((path) => api.apiURL(path), (path) => api.fetchApi(path, { method: "POST" }));
    sessions.set(node, session);
    node.addDOMWidget("livetalk_session", "LIVETALK_SESSION", session.element, { ...SHOWN, getMinHeight: () => 330 });
    const removed = node.onRemoved;
    node.onRemoved = function () {
      session.leave();
      // A deleted node leaves its graph; one whose workflow is only out of sight does not, and its session goes on.
      setTimeout(() => node.graph || session.end());
      removed?.apply(this, arguments);
    };
    joinSoon();
  },

  setup() {
    api.addEventListener("livetalk.session", (event) => join(event.detail));
  },
});

// Nodes made anew, by a reload or a change of the tab, join the session that goes on. They get their ids after creation.
function joinSoon() {
  clearTimeout(joining);
  joining = setTimeout(async () => {
    const response = await api.fetchApi("/livetalk/sessions");
    if (response.ok) for (const opened of await response.json()) join(opened);
  }, 500);
}

function join(opened) {
  sessions.get(nodeOf(app, opened))?.join(opened.session);
}

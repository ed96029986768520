// How the pack's nodes look: colors of their wires, and a prompt box of five lines that keeps its size.
const COLORS = {
  LIVETALK_ENGINE: "#e0a458",
  LIVETALK_OPTIONS: "#b8a68a",
  LIVETALK_AUDIO: "#4fb3a5",
  LIVETALK_REFERENCE: "#d9738f",
  LIVETALK_STREAM: "#8f7ee7",
};
const PROMPT_HEIGHT = 84; // five lines in the classic canvas
const PROMPT_HEIGHT_VUE = 108; // the same in Nodes 2.0, with its label

const sheet = document.createElement("style");
const promptSheet = document.createElement("style");
sheet.textContent = `
  :root { ${Object.entries(COLORS).map(([type, color]) => `--color-datatype-${type}: ${color}`).join("; ")} }
  .lg-node-widgets:has(.livetalk-player) { grid-template-rows: repeat(60, min-content) auto !important; row-gap: 0 !important }
  .lg-node-widgets:has(.livetalk-player) > * { padding-bottom: 4px }
  .lg-node-widgets > :has(.livetalk-player) { grid-row: 61 !important }
`; // Nodes 2.0: of a taller node's room, the player gets all. Its row is the last of a grid whose other rows do not grow.
document.head.append(sheet, promptSheet);

// For the classic canvas, whose colors a change of the palette resets. Nodes 2.0 reads the style sheet.
export function colorWires(canvas) {
  if (!canvas) return;
  Object.assign(canvas.default_connection_color_byType, COLORS);
  Object.assign(canvas.constructor.link_type_colors, COLORS);
  canvas.setDirty?.(true, true);
}

export function fixPrompt(node) {
  const prompt = node.widgets?.find((widget) => widget.name === "prompt");
  if (!prompt?.options) return;
  prompt.options.getMinHeight = prompt.options.getMaxHeight = () => PROMPT_HEIGHT;
}

// Nodes 2.0 draws its own text box, which is found by its node's id. It would give the box's row a share of a taller node's room, and
// leave a gap below it.
export function fixPromptsVue(nodes) {
  promptSheet.textContent = nodes
    .map((node) => `[data-node-id="${node.id}"] .lg-node-widgets`)
    .flatMap((rows) => [
      `${rows} textarea { height: ${PROMPT_HEIGHT_VUE}px; min-height: ${PROMPT_HEIGHT_VUE}px }`,
      `${rows}:not(:has(.livetalk-player)) { grid-template-rows: none !important; grid-auto-rows: min-content; flex: none !important }`,
    ])
    .join("\n");
}

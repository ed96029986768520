// Which node of the page the server means. It names a node, and the workflow that the prompt was queued from.

export function rootGraph(app) {
  return app.rootGraph ?? app.graph;
}

// The node; undefined if it is in another workflow. Prompts queued over the API name no workflow.
export function nodeOf(app, { node, workflow }) {
  const root = rootGraph(app);
  return workflow && root?.id && workflow !== root.id ? undefined : findNode(root, node);
}

// "7" is a node of the graph itself, "3:7" one inside the subgraph of node 3.
export function findNode(graph, id) {
  const path = String(id).split(":").map(Number);
  const last = path.pop();
  for (const step of path) graph = graph?.getNodeById(step)?.subgraph;
  return graph?.getNodeById(last) ?? undefined;
}

// The buckets that each model was made for, so that a node offers no others.
const MADE_FOR = {
  livetalk_14b: ["416", "627", "960"],
  nano: ["128", "256"],
};

// The choices for a model. Any model but nano is a large one; without a model all are offered.
export function sizesOf(model, all) {
  if (!model) return all;
  const own = MADE_FOR[model] ?? MADE_FOR.livetalk_14b;
  return all.filter((size) => size === "auto" || size === "custom" || own.includes(size));
}

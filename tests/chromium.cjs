// Chromium for tests and measurements in a real browser.
// Environment: PLAYWRIGHT_CORE, the folder of that package; CHROMIUM, the program (default /usr/bin/chromium).
const { chromium } = require(process.env.PLAYWRIGHT_CORE || "playwright-core");

const EVER = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"];

// `wav`: the sound file that its microphone hears; without one it has no microphone. `flags`: more of its own options.
exports.launch = (wav, flags = []) => chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: wav ? [...EVER, ...flags, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", `--use-file-for-fake-audio-capture=${wav}`] : [...EVER, ...flags],
});

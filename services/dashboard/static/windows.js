// Successive batching as a picture: a row per slot, time to the right, a bar per window coloured by the newest policy
// version that sampled in it, a mark at its end, and a line for each training step.
const ROW_PIXELS = 9;
const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis

function colour(share) {
  const place = Math.min(0.9999, Math.max(0, share)) * (STOPS.length - 1);
  const [from, to] = [STOPS[Math.floor(place)], STOPS[Math.floor(place) + 1]];
  return `rgb(${from.map((one, index) => Math.round(one + (to[index] - one) * (place % 1))).join(" ")})`;
}

function slotRows(slots) {
  const rows = new Map();
  for (const generator of Object.keys(slots).sort())
    for (let slot = 0; slot < slots[generator]; slot += 1) rows.set(`${generator}/${slot}`, rows.size);
  return rows;
}

function newestVersion(bar) {
  return bar.versions.length ? bar.versions[bar.versions.length - 1][0] : 0;
}

export function drawWindows(answer, canvas, text, legend) {
  const bars = answer.bars.filter((bar) => bar.ended !== null && bar.slot !== null);
  const rows = slotRows(answer.slots);
  if (!bars.length || !rows.size) {
    text.textContent = "No window has come yet.";
    return;
  }
  const begin = Math.min(...bars.map((bar) => bar.started));
  const end = Math.max(...bars.map((bar) => bar.ended));
  const versions = bars.map(newestVersion);
  const [oldest, newest] = [Math.min(...versions), Math.max(...versions)];
  const busy = bars.reduce((sum, bar) => sum + bar.ended - bar.started, 0);
  const occupancy = busy / (rows.size * Math.max(1e-9, end - begin));
  text.textContent =
    `${bars.length} windows in ${rows.size} slots over ${(end - begin).toFixed(1)} s; ` +
    `slots are in use for ${(100 * occupancy).toFixed(0)} % of it.`;
  legend.textContent =
    `Colour: policy version, from ${oldest} (dark) to ${newest} (bright). End of a window: white, the response ended; ` +
    "red, it was cut and goes on. Vertical lines: training steps. Gaps: idle slots.";
  paint({ answer, bars, rows, begin, end, oldest, newest }, canvas);
}

function paint(picture, canvas) {
  const { answer, bars, rows, begin, end, oldest, newest } = picture;
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, rows.size * ROW_PIXELS];
  canvas.style.height = `${height}px`;
  [canvas.width, canvas.height] = [width * scale, height * scale];
  const brush = canvas.getContext("2d");
  brush.scale(scale, scale);
  const across = (time) => ((time - begin) / Math.max(1e-9, end - begin)) * width;
  brush.fillStyle = "rgb(128 128 128 / 0.45)";
  for (const step of answer.steps) if (step.time >= begin) brush.fillRect(across(step.time), 0, 1, height);
  bars.forEach((bar) => {
    const top = rows.get(`${bar.generator}/${bar.slot}`) * ROW_PIXELS;
    const [left, right] = [across(bar.started), across(bar.ended)];
    brush.fillStyle = colour((newestVersion(bar) - oldest) / Math.max(1, newest - oldest));
    brush.fillRect(left, top + 1, Math.max(1, right - left), ROW_PIXELS - 2);
    brush.fillStyle = bar.is_finished ? "white" : "crimson";
    brush.fillRect(Math.max(left, right - 1.5), top + 1, 1.5, ROW_PIXELS - 2);
  });
}

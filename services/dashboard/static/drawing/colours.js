// @ts-check
// Colours for numbers: viridis for what has an order, red to blue for what has a sign.
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const SIGNED = [[240, 130, 110], [250, 215, 205], [246, 246, 246], [205, 222, 246], [110, 165, 235]];
const PALE = [[246, 246, 246], [214, 233, 208], [170, 215, 160], [240, 205, 120], [238, 150, 90]];

/**
 * @param {number[][]} stops
 * @param {number} share
 */
function mixed(stops, share) {
  const place = Math.min(0.9999, Math.max(0, share)) * (stops.length - 1);
  const [from, to] = [stops[Math.floor(place)], stops[Math.floor(place) + 1]];
  return `rgb(${from.map((one, index) => Math.round(one + (to[index] - one) * (place % 1))).join(" ")})`;
}

/** @param {number} share */
export const viridis = (share) => mixed(VIRIDIS, share);
/** @param {number} value -1 red, 0 nearly white, 1 blue */
export const signed = (value) => mixed(SIGNED, (value + 1) / 2);
/** @param {number} share 0 nearly white, 1 strong; dark text is readable on all of it */
export const pale = (share) => mixed(PALE, share);

export function gradient(of = viridis, from = 0, to = 1) {
  const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => of(from + (to - from) * share));
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

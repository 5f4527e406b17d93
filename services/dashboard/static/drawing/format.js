// @ts-check
// Numbers for people.

/**
 * @param {unknown} value
 * @returns {value is number}
 */
export function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** @param {unknown} value */
export function fixed(value, digits = 3) {
  return isNumber(value) ? value.toFixed(digits) : "–";
}

/** @param {unknown} value */
export function whole(value) {
  return isNumber(value) ? Math.round(value).toLocaleString("en") : "–";
}

/** @param {unknown} value */
export function short(value) {
  if (!isNumber(value)) return "–";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e7)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

/** @param {unknown} share */
export function percent(share) {
  return isNumber(share) ? `${(100 * share).toFixed(0)} %` : "–";
}

/** @param {unknown} value */
export function seconds(value) {
  if (!isNumber(value)) return "–";
  if (value !== 0 && value < 0.1) return value < 1e-3 ? `${(1e6 * value).toFixed(0)} µs` : `${(1e3 * value).toFixed(0)} ms`;
  if (value < 120) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

/** @param {unknown} moment seconds since the epoch */
export function clock(moment) {
  return isNumber(moment) ? new Date(1000 * moment).toLocaleTimeString("en-GB") : "–";
}

/** @param {string | null} moment an ISO date */
export function date(moment) {
  return moment ? new Date(moment).toLocaleString("en-GB") : "–";
}

/** @param {unknown} count */
export function bytes(count) {
  if (!isNumber(count)) return "–";
  return count < 1e6 ? `${(count / 1e3).toFixed(0)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

/** @param {string} name */
export function words(name) {
  return String(name).replaceAll("_", " ").toLowerCase();
}

/**
 * Characters that would be invisible, or turn the text around, as their code.
 * @param {string} text
 */
export function visible(text) {
  return text
    .replace(/\r/g, "␍")
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (character) =>
      `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

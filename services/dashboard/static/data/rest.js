// @ts-check
// The REST interface. Reading needs no token of ours; steering sends the bearer token of the page's address (#token=...), or
// the one that was typed in.

/** @import { AnswerOf, Query } from "/static/data/types.d.ts" */

const TOKEN = "tppo-token";
const DEADLINE_MILLISECONDS = 10_000;

// Why there is no answer; `status` is 0 when the dashboard did not answer at all.
export class RestError extends Error {
  /**
   * @param {string} message
   * @param {number} status
   */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function takeTokenFromAddress() {
  const found = /(?:^#|[#&?])token=([^&]+)/.exec(location.hash);
  if (!found) return;
  sessionStorage.setItem(TOKEN, decodeURIComponent(found[1]));
  history.replaceState(null, "", location.pathname);
}

export function knownToken() {
  return sessionStorage.getItem(TOKEN) ?? "";
}

/** @param {string} token */
export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/**
 * @param {string} path below /api/v1
 * @param {Query} parameters
 */
export function address(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `/api/v1/${path}${query ? `?${query}` : ""}`;
}

/**
 * @param {string} path
 * @param {RequestInit} request
 */
async function answered(path, request) {
  const signal = AbortSignal.timeout(DEADLINE_MILLISECONDS);
  const response = await fetch(path, { ...request, signal }).catch((error) => {
    throw new RestError(error.message, 0);
  });
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw new RestError(problem.detail ?? problem.title ?? `the answer is ${response.status}`, response.status);
}

/**
 * @template {string} Address
 * @param {Address} path
 * @param {Query} [parameters]
 * @returns {Promise<AnswerOf<Address>>}
 */
export async function get(path, parameters) {
  return answered(address(path, parameters), {});
}

/**
 * @param {string} path
 * @param {Query} parameters
 * @param {object} [body]
 */
export async function post(path, parameters, body = undefined) {
  /** @type {Record<string, string>} */
  const headers = { "Content-Type": "application/json" };
  if (knownToken()) headers.Authorization = `Bearer ${knownToken()}`; // else the browser sends what it remembers
  const request = { method: "POST", headers, body: body === undefined ? undefined : JSON.stringify(body) };
  return answered(address(path, parameters), request);
}

/**
 * A request that follows the run: when the dashboard does not answer, the top of the page says so, and not the view.
 * @param {unknown} work
 */
export async function whileAnswered(work) {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof RestError && error.status === 0)) throw error;
  }
}

/**
 * At most one call in the given time; the last one is made.
 * @param {number} milliseconds
 * @param {() => unknown} act
 */
export function seldom(milliseconds, act) {
  /** @type {number | null} */
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      whileAnswered(act());
    }, milliseconds);
  };
}

// The REST interface. Reading needs no token of ours; steering sends the bearer token of the page's address (#token=...), or
// the one that was typed in.

const TOKEN = "tppo-token";
const DEADLINE_MILLISECONDS = 10_000;

export function takeTokenFromAddress() {
  const found = /(?:^#|[#&?])token=([^&]+)/.exec(location.hash);
  if (!found) return;
  sessionStorage.setItem(TOKEN, decodeURIComponent(found[1]));
  history.replaceState(null, "", location.pathname);
}

export function knownToken() {
  return sessionStorage.getItem(TOKEN) ?? "";
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export function address(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `/api/v1/${path}${query ? `?${query}` : ""}`;
}

async function answered(path, request) {
  const signal = AbortSignal.timeout(DEADLINE_MILLISECONDS);
  const response = await fetch(path, { ...request, signal }).catch((error) => {
    throw Object.assign(new Error(error.message), { isNoAnswer: true });
  });
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail ?? problem.title ?? `the answer is ${response.status}`), { status: response.status });
}

export async function get(path, parameters) {
  return answered(address(path, parameters), {});
}

export async function post(path, parameters, body = undefined) {
  const headers = { "Content-Type": "application/json" };
  if (knownToken()) headers.Authorization = `Bearer ${knownToken()}`; // else what the browser knows
  const request = { method: "POST", headers, body: body === undefined ? undefined : JSON.stringify(body) };
  return answered(address(path, parameters), request);
}

// A request that follows the run: when the dashboard does not answer, the top of the page says so, and not the view.
export async function whileAnswered(work) {
  try {
    await work;
  } catch (error) {
    if (!error.isNoAnswer) throw error;
  }
}

// At most one call in the given time; the last one is made.
export function seldom(milliseconds, act) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      whileAnswered(act());
    }, milliseconds);
  };
}

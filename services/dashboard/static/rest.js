// The REST interface. Looking needs no token where the browser may look at all; steering sends the one that the address
// carried (#token=...), or that the reader typed in.

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

async function answered(response) {
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail ?? problem.title ?? `the answer is ${response.status}`), { status: response.status });
}

export async function get(path, parameters) {
  const signal = AbortSignal.timeout(DEADLINE_MILLISECONDS);
  return answered(await fetch(address(path, parameters), { signal }));
}

export async function post(path, parameters, body = undefined) {
  const headers = { "Content-Type": "application/json" };
  if (knownToken()) headers.Authorization = `Bearer ${knownToken()}`; // else what the browser knows
  const signal = AbortSignal.timeout(DEADLINE_MILLISECONDS);
  const request = { method: "POST", headers, body: body === undefined ? undefined : JSON.stringify(body), signal };
  return answered(await fetch(address(path, parameters), request));
}

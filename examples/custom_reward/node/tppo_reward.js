// Offers functions to a reward service, and attaches again whenever the stream ends.
//
// A function gets a RewardRequest of proto/tppo/v1/rollout.proto, with extra_info parsed. It returns a number, an object
// with "score" and further numbers (its components; other entries are left out), or null to abstain, as "score" may be,
// too; what it throws is the cause of a failure. A boolean and a BigInt are numbers, a text is none.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const PROTO = process.env.TPPO_PROTO || path.join(__dirname, '../../../proto');
const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 5000;
const FINAL_CODES = [grpc.status.UNAUTHENTICATED, grpc.status.FAILED_PRECONDITION, grpc.status.UNIMPLEMENTED];
const OPTIONS = {
  'grpc.max_send_message_length': 16 * 2 ** 20,
  'grpc.max_receive_message_length': 16 * 2 ** 20,
  'grpc.keepalive_time_ms': 10000,
  'grpc.keepalive_timeout_ms': 3000,
};

const TLS_VARIABLES = ['TPPO_TLS_CA', 'TPPO_TLS_CERTIFICATE', 'TPPO_TLS_KEY'];

const definition = protoLoader.loadSync('tppo/v1/reward.proto', {
  includeDirs: [PROTO],
  keepCase: true,
  enums: String,
  longs: String,
  defaults: true,
});
const { RewardService } = grpc.loadPackageDefinition(definition).tppo.v1;

// Serve until the process ends; `functions` is { NAME: { score, minScore, maxScore } }.
function serve(address, functions, { maxHeld = 32, run = '', token } = {}) {
  const client = new RewardService(address, credentials(), OPTIONS);
  const offer = {
    process: `node ${process.pid}`,
    functions: Object.entries(functions).map(([name, { minScore, maxScore }]) => ({
      name,
      min_score: minScore,
      max_score: maxScore,
    })),
    max_held: maxHeld,
    run,
    reports_starts: true,
  };
  let delay = FIRST_DELAY_MS;

  function attach() {
    const metadata = new grpc.Metadata();
    const brought = token ?? tokenFor(address);
    if (brought) metadata.set('authorization', `Bearer ${brought}`);
    const stream = client.Attach(metadata);
    let isAccepted = false;
    const waiting = [];
    let isStarting = false;

    // One call after the other, each reported first: a function that keeps this thread busy makes none late but itself.
    async function start() {
      if (isStarting) return;
      isStarting = true;
      while (waiting.length) {
        const work = waiting.shift();
        if (Object.hasOwn(functions, work.function)) {
          stream.write({ started: { function: work.function, lease_ids: [work.lease_id] } });
          await new Promise(setImmediate); // on its way
        }
        scored(functions, work).then((result) => stream.write({ results: { results: [result] } }));
      }
      isStarting = false;
    }

    stream.on('data', (message) => {
      if (message.accepted) {
        isAccepted = true;
        delay = FIRST_DELAY_MS;
      }
      waiting.push(...(message.work ? message.work.work : []));
      start();
    });
    stream.on('error', () => {}); // `status` follows with the code
    stream.on('status', ({ code, details }) => {
      waiting.length = 0; // it goes to another process
      console.error(`${address}: ${grpc.status[code]}: ${details}`);
      // Another service has begun to listen there since the token was looked up.
      const isReplaced = token === undefined && !['', brought].includes(tokenFor(address));
      const isOutdated = code === grpc.status.UNAUTHENTICATED && isReplaced;
      if ((FINAL_CODES.includes(code) && !isOutdated) || (code === grpc.status.INVALID_ARGUMENT && !isAccepted)) process.exit(1);
      setTimeout(attach, delay * (0.5 + Math.random() / 2));
      delay = Math.min(2 * delay, LONGEST_DELAY_MS);
    });
    stream.write({ offer });
  }

  attach();
}

// From the environment, else as a reward service of the same user on this host left it: docs/security.md.
function tokenFor(address) {
  const { TPPO_REWARD_TOKEN, TPPO_TOKEN, TPPO_RUNTIME_DIR } = process.env;
  if (TPPO_REWARD_TOKEN) return TPPO_REWARD_TOKEN.trim();
  if (TPPO_TOKEN) return crypto.createHmac('sha256', TPPO_TOKEN.trim()).update('reward').digest('hex');
  const [, port] = /^(?:localhost|127\.[\d.]+|\[?::1\]?):(\d+)$/.exec(address) || [];
  const folder = TPPO_RUNTIME_DIR || `/tmp/tppo-${process.getuid?.()}`;
  const file = path.join(folder, `reward-${port}.token`);
  return port && isPrivate(folder) && isPrivate(file) ? fs.readFileSync(file, 'ascii').trim() : '';
}

// This user's own, no link, and closed to others.
function isPrivate(file) {
  const state = fs.lstatSync(file, { throwIfNoEntry: false });
  return Boolean(state) && state.uid === process.getuid?.() && (state.mode & 0o077) === 0;
}

// Mutual TLS where the environment names the three PEM files: of the authority, of this process, and of its key.
function credentials() {
  if (!TLS_VARIABLES.some((name) => process.env[name])) return grpc.credentials.createInsecure();
  const [authority, certificate, key] = TLS_VARIABLES.map(pem);
  return grpc.credentials.createSsl(authority, key, certificate);
}

function pem(variable) {
  const file = process.env[variable] || '';
  const content = file && fs.existsSync(file) ? fs.readFileSync(file) : Buffer.alloc(0);
  if (content.includes('-----BEGIN ')) return content;
  throw new Error(`${variable} = '${file}': expected a PEM file; mutual TLS takes ${TLS_VARIABLES.join(', ')}`);
}

async function scored(functions, work) {
  const { lease_id, function: name, request } = work;
  const reply = { lease_id, rollout_id: request.rollout_id };
  try {
    if (!Object.hasOwn(functions, name)) throw new Error(`this process offers no function ${name}`);
    const extraInfo = JSON.parse(request.extra_info || '{}');
    const returned = await functions[name].score({ ...request, extra_info: extraInfo });
    if (returned === null || returned === undefined) return { ...reply, status: 'SCORE_STATUS_ABSTAINED' };
    const { score, ...rest } = typeof returned === 'object' ? returned : { score: returned };
    if (score === null) return { ...reply, status: 'SCORE_STATUS_ABSTAINED' };
    if (!isNumber(score)) throw new TypeError(`the function returned ${score} of type ${typeof score}; expected a number`);
    const numbers = Object.entries(rest).filter(([name, entry]) => name !== 'token_rewards' && isNumber(entry));
    const components = Object.fromEntries(numbers.map(([name, entry]) => [name, Number(entry)]));
    check({ score: Number(score), ...components }, functions[name]);
    return { ...reply, status: 'SCORE_STATUS_SCORED', score: Number(score), components };
  } catch (error) {
    return { ...reply, status: 'SCORE_STATUS_FAILED', error: String(error).slice(0, 1000) };
  }
}

function isNumber(value) {
  return ['number', 'bigint', 'boolean'].includes(typeof value);
}

function check(numbers, { minScore = -Infinity, maxScore = Infinity }) {
  for (const [name, number] of Object.entries(numbers)) {
    if (!Number.isFinite(number)) throw new RangeError(`the function returned ${name} = ${number}; expected a finite number`);
  }
  const { score } = numbers;
  if (score < minScore || score > maxScore) {
    throw new RangeError(`the function returned score = ${score}; expected a score from ${minScore} to ${maxScore}`);
  }
}

module.exports = { serve };

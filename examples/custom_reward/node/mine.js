// A reward function in Node.js: node mine.js 127.0.0.1:50052
'use strict';

const { serve } = require('./tppo_reward');

async function mine({ response, ground_truth }) {
  return response.includes(ground_truth) ? 1 : 0;
}

for (const address of process.argv.slice(2)) {
  serve(address, { mine: { score: mine, minScore: 0, maxScore: 1 } });
}

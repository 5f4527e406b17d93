
const { serve } = require('./tppo_reward');
const VALUES = {
  'a number': 0.5, 'a boolean': true, 'a bigint': 2n, 'a text': '0.5', 'nan': NaN, 'nothing': null,
  'nothing in a table': { score: null }, 'no score': { style: 1 }, 'a component that is nan': { score: 1, style: NaN },
  'components': { score: 1, flag: true, count: 7n, note: 'fine', steps: [1], token_rewards: 1 },
};
serve(process.argv[2], { mine: { score: ({ response }) => VALUES[response] } });

// The answers of the REST interface, from its OpenAPI document; `make docs` writes this file.

export interface AlertStatus {
  severity: "error" | "warning" | "notice";
  text: string;
  /** The step since which it holds, where that is known. */
  since_step: number | null;
}

export interface Bar {
  rollout: string;
  window: number;
  /** Empty while it waits for a slot. */
  generator: string;
  slot: number | null;
  /** Seconds since the epoch; of a window that waits for a slot, when it was requested. */
  started: number | null;
  /** Null while it is being sampled, or waits to be. */
  ended: number | null;
  tokens: number;
  /** [policy version, number of tokens], in order. */
  versions: Array<[number, number]>;
  /** stop, length or failed; empty while it runs. */
  finish: string;
  /** The response ended here. */
  is_finished: boolean;
  /** Of a finished response, once it is known. */
  score: number | null;
  evaluation: boolean;
}

export interface BinCounts {
  /** In order, one more than there are counts; the last one is included too. */
  edges: Array<number>;
  counts: Array<number>;
}

export interface CheckpointAnswer {
  step: number;
  path: string;
  committed_at: string;
  num_bytes: number;
  is_latest: boolean;
  is_best: boolean;
  /** Of the one that did best. */
  accuracy: number | null;
}

export interface CommandStatus {
  command_id: string;
  action: string;
  arguments: Record<string, any>;
  /** Seconds since the epoch. */
  issued_at: number | null;
  /** pending, done or refused. */
  outcome: string;
  /** A sentence about the outcome. */
  text: string;
}

export interface Configuration {
  run: string;
  /** As in the TOML file, every default spelled out; passwords in addresses are left out. */
  sections: Record<string, any>;
}

export interface ControlStatus {
  paused: boolean;
  /** The run stops after this step; null: at its end. */
  stop_after_step: number | null;
  /** The keys that may be changed while it runs, with the values in force. */
  settings: Record<string, any>;
  /** The last 20. */
  commands: Array<CommandStatus>;
}

export interface Critic {
  run: string;
  step: number;
  points: CriticPoints;
}

export interface CriticPoints {
  /** Predicted when the token's window was trained. */
  value: Array<number | null>;
  /** What the response earned, discounted to the token. */
  return: Array<number | null>;
  /** The token's window is the response's last; false: its window was cut, and trained before the end was known. */
  is_finished: Array<boolean>;
  /** Place in the response. */
  position: Array<number>;
}

export interface DeadLetterStatus {
  /** The stream that held it. */
  source: string;
  /** Its entry there. */
  place: string;
  cause: string;
}

export interface DeadLettersStatus {
  num_kept: number;
  /** The oldest, beyond the bound. */
  num_dropped: number;
  newest: Array<DeadLetterStatus>;
}

export interface Distributions {
  run: string;
  /** The first and the last step that took one of them; null where there is none. */
  from_step: number | null;
  to_step: number | null;
  num_responses: number;
  num_scored: number;
  /** Tokens of the responses. */
  length: BinCounts;
  /** Of those that have one. */
  score: BinCounts;
}

export interface Duplicates {
  window: number | null;
  score: number | null;
}

export interface Excerpt {
  before: string;
  /** What was looked for; empty where nothing was. */
  found: string;
  after: string;
}

export interface GeneratorAnswer {
  name: string;
  /** As of its last heartbeat; null where Redis has none. */
  process: ServiceStatus | null;
  /** Of the weights that it serves. */
  policy_version: number | null;
  num_slots: number | null;
  /** Responses that it extends now. */
  num_active: number | null;
  /** Share of its slots in use, over all decode steps so far. */
  occupancy: number | null;
  /** Over its last ten heartbeats. */
  tokens_per_second: number | null;
  /** Requests under its leases, running or waiting. */
  num_held: number | null;
  /** Share of the KV cache's room that the running responses take; null where its engine does not know. */
  kv_cache_use: number | null;
  /** Tokens prefilled for each token that it sampled. */
  prefill_per_token: number | null;
  /** Of the prefixes' tokens so far, the share whose KV cache was taken over from a sibling. */
  shared_prefix_share: number | null;
  /** Windows that it handed over. */
  num_cut: number | null;
  /** The largest log-prob difference of its weights' proof; null where none was made. */
  probe_difference: number | null;
  /** What the learner knows of the transfers to it. */
  weights: Record<string, any>;
}

export interface JoinAnswer {
  run: string;
  /** The configuration in force, as TOML, without the address of Redis. */
  config: string;
  /** With the password. */
  redis_url: string;
  /** The config.json of the run's model; empty where this process cannot read it. */
  model: Record<string, any>;
  /** By which generators seal their records. */
  record_key: string;
}

export interface KeptResponses {
  items: Array<KeptSummary>;
  num_searched: number;
  /** Those that the conditions but the text allow. */
  total: number;
  /** The search ended there; the same request with this `older_than` continues it. Null: nothing is left. */
  older_than: number | null;
  /** What is missing in the answer, in sentences; empty when nothing is. */
  note: string;
}

export interface KeptSummary {
  rollout: string;
  evaluation: boolean;
  /** Training steps done when it was scored; of an evaluation, those of its weights; null before the first. */
  step: number | null;
  /** Of its newest score: SCORED, ABSTAINED, TIMED_OUT or FAILED. */
  status: string;
  score: number | null;
  /** Tokens. */
  length: number;
  /** Of the score, seconds since the epoch. */
  time: number;
  /** Whether /rollouts has it; it forgets the oldest. */
  is_listed: boolean;
  excerpt: Excerpt;
}

export interface KeptText {
  rollout: string;
  evaluation: boolean;
  /** Training steps done when it was scored; of an evaluation, those of its weights; null before the first. */
  step: number | null;
  /** Of its newest score: SCORED, ABSTAINED, TIMED_OUT or FAILED. */
  status: string;
  score: number | null;
  /** Tokens. */
  length: number;
  /** Of the score, seconds since the epoch. */
  time: number;
  /** Whether /rollouts has it; it forgets the oldest. */
  is_listed: boolean;
  response: string;
  /** Of the whole response. */
  num_characters: number;
}

export interface LatestMetrics {
  run: string;
  step: Record<string, any>;
  evaluation: Record<string, any>;
  /** Of the newest step. */
  age_seconds: number | null;
}

export interface LedgerReport {
  run: string;
  issued: number | null;
  trained: number | null;
  in_flight: number | null;
  parked: number | null;
  dropped: number | null;
  dropped_by_reason: Record<string, number>;
  /** issued = trained + in_flight + parked + dropped. */
  holds: boolean | null;
  /** Requests that had vanished from Redis and were sent once more. */
  resent_requests: number | null;
  /** Records of the inbox that no learner can use; each counts as never arrived. */
  rejected_records: number | null;
  /** These records, and requests that no worker could serve. */
  dead_letters: DeadLettersStatus;
  duplicates: Duplicates;
  /** The most frequent causes, at most 50. */
  parked_by_cause: Array<ParkedCause>;
  /** Rollouts in the journal by state; of those that have retired longest ago, none. */
  by_state: Record<string, number>;
  /** Rollouts of the journal that are not kept in memory any more. */
  num_forgotten: number;
  /** step, and each part of the equation after it. */
  history: Record<string, Array<number | null>>;
}

export interface LogTail {
  service: string;
  lines: Array<string>;
  /** Whose logs there are. */
  services: Array<string>;
}

export interface MetricHistory {
  run: string;
  kind: "step" | "evaluation";
  /** Before thinning. */
  num_lines: number;
  /** step, time (seconds since the epoch), seconds_since_start, and the names in the request; null where a line lacks the number. The meaning of each: docs/metrics.md. */
  columns: Record<string, Array<number | null>>;
}

export interface MetricNames {
  run: string;
  step: Array<string>;
  evaluation: Array<string>;
}

export interface PageCheckpointAnswer {
  items: Array<CheckpointAnswer>;
  /** How many there are, on all pages. */
  total: number;
}

export interface PageGeneratorAnswer {
  items: Array<GeneratorAnswer>;
  /** How many there are, on all pages. */
  total: number;
}

export interface PageRolloutSummary {
  items: Array<RolloutSummary>;
  /** How many there are, on all pages. */
  total: number;
}

export interface PageRunEvent {
  items: Array<RunEvent>;
  /** How many there are, on all pages. */
  total: number;
}

export interface PageRunSummary {
  items: Array<RunSummary>;
  /** How many there are, on all pages. */
  total: number;
}

export interface ParkedCause {
  /** What retry-parked and drop-parked take; causes that differ in a value only are of one kind. */
  cause: string;
  num_rollouts: number;
}

export interface QueueStatus {
  num_waiting: number;
  /** Held by a worker. */
  num_leased: number;
}

export interface RewardFunctionAnswer {
  function: string;
  num_scored: number;
  /** Attempts without a score: abstained, timed out or failed. */
  num_failed: number;
  mean_score: number | null;
  mean_seconds: number | null;
  max_seconds: number | null;
  last_error: string;
}

export interface RewardFunctions {
  items: Array<RewardFunctionAnswer>;
  /** How many there are, on all pages. */
  total: number;
  /** Data source -> function, as in [reward]. */
  configured: Record<string, string>;
  default_function: string;
  services: Array<ServiceStatus>;
}

export interface RolloutDetail {
  rollout: string;
  /** Row in the data files, laid end to end; of the validation files where `evaluation` is true. */
  prompt: number | null;
  /** requested -> ready (window not the last) -> trained -> requested ...; requested -> scoring (response ended) -> ready -> retired; parked and dropped have a cause. */
  state: "requested" | "ready" | "scoring" | "trained" | "retired" | "parked" | "dropped";
  evaluation: boolean;
  /** TracedResponse tokens so far. */
  length: number;
  /** That sampled the newest window; empty before the first. */
  generator: string;
  slot: number | null;
  /** Of the weights that sampled its tokens. */
  oldest_version: number | null;
  newest_version: number | null;
  /** That trained its windows. */
  trained_steps: Array<number>;
  /** Why it is parked or was dropped. */
  cause: string;
  /** Seconds since the epoch. */
  updated_at: number;
  /** Null where the data files cannot be read. */
  prompt_text: string | null;
  ground_truth: string | null;
  /** The response as far as there are traces of it; without one, the kept response. */
  text: string | null;
  /** In order. */
  windows: Array<WindowAnswer>;
  /** Null before the first attempt to score it. */
  score: ScoreAnswer | null;
  /** By position in the response; null with a reason in `tokens_missing`. */
  tokens: TokenColumns | null;
  /** Why there are no tokens, or not all; empty when nothing is missing. */
  tokens_missing: string;
  /** Other rollouts of the same prompt, the newest first. */
  siblings: Array<RolloutSummary>;
  /** Responses that /rollouts/{rollout}/same-prompt shows side by side. */
  num_kept_of_same_prompt: number;
}

export interface RolloutSummary {
  rollout: string;
  /** Row in the data files, laid end to end; of the validation files where `evaluation` is true. */
  prompt: number | null;
  /** requested -> ready (window not the last) -> trained -> requested ...; requested -> scoring (response ended) -> ready -> retired; parked and dropped have a cause. */
  state: "requested" | "ready" | "scoring" | "trained" | "retired" | "parked" | "dropped";
  evaluation: boolean;
  /** TracedResponse tokens so far. */
  length: number;
  /** That sampled the newest window; empty before the first. */
  generator: string;
  slot: number | null;
  /** Of the weights that sampled its tokens. */
  oldest_version: number | null;
  newest_version: number | null;
  /** That trained its windows. */
  trained_steps: Array<number>;
  /** Why it is parked or was dropped. */
  cause: string;
  /** Seconds since the epoch. */
  updated_at: number;
  /** Requested so far. */
  windows: number;
  score: number | null;
  /** How its response begins, where that is kept (reward.kept_prompts); null elsewhere. */
  preview: string | null;
}

export interface RunEvent {
  /** Rises; for `after_id`. */
  id: number;
  /** Seconds since the epoch. */
  time: number | null;
  /** start, checkpoint, evaluation, command, end or error. */
  event: string;
  step: number | null;
  /** A sentence. */
  text: string;
  /** The other fields of the journal's line. */
  extra: Record<string, any>;
}

export interface RunSummary {
  name: string;
  state: "starting" | "running" | "learner_gone" | "redis_gone" | "stopped" | "gave_up" | "finished";
  algorithm: string;
  mode: string;
  step: number;
  /** 0 where the configuration is not known. */
  total_training_steps: number;
  /** Of the model before the first step. */
  base_accuracy: number | null;
  /** Of the newest evaluation. */
  accuracy: number | null;
  started_at: string | null;
  /** Of its last line, unless it is running. */
  ended_at: string | null;
  has_traces: boolean;
  /** The run that this dashboard was started for. */
  is_live: boolean;
}

export interface SamePrompt {
  prompt: string;
  ground_truth: string;
  responses: Array<KeptText>;
  /** How many are kept. */
  total: number;
  /** What is missing in the answer, in sentences; empty when nothing is. */
  note: string;
}

export interface ScoreAnswer {
  status: string;
  score: number | null;
  components: Record<string, any>;
  function: string;
  attempts: Array<ScoreAttempt>;
}

export interface ScoreAttempt {
  attempt: number;
  /** SCORED, ABSTAINED, TIMED_OUT or FAILED. */
  status: string;
  score: number | null;
  components: Record<string, any>;
  function: string;
  seconds: number | null;
  error: string;
  /** What the function says of the score, such as the first test that failed. */
  details: string;
  time: number | null;
}

export interface ScrapeTarget {
  /** Its address, host:port. */
  targets: Array<string>;
  /** `kind`: generation, reward or learner. */
  labels: Record<string, string>;
}

export interface ServiceStatus {
  name: string;
  /** generation, reward, learner or dashboard. */
  kind: string;
  /** host:port of its gRPC server; empty when it has none. */
  address: string;
  /** Whether its last heartbeat is recent. */
  is_alive: boolean;
  seconds_since_seen: number;
  /** Its own report. */
  status: Record<string, any>;
}

export interface Status {
  run: string;
  /** `redis_gone`: Redis does not answer, so this is from the folder and its last answer; `stopped`: ended before its last step, or not written to lately; `gave_up`: ended, with the cause in `ending_cause`. */
  state: "starting" | "running" | "learner_gone" | "redis_gone" | "stopped" | "gave_up" | "finished";
  /** Why it gave up, in a sentence; empty elsewhere. */
  ending_cause: string;
  /** Training steps done. */
  step: number;
  total_training_steps: number;
  /** Of the learner's weights; null where it is not known. */
  policy_version: number | null;
  /** Its last heartbeat, when it has none for some seconds before the run's end. */
  learner_gone_since: string | null;
  /** The moment that this is true of, when the learner or Redis does not answer or the run is over; null: now. */
  known_since: string | null;
  /** What the next training step waits for, in words; empty when it waits for nothing. */
  waiting_for: string;
  /** Whether this dashboard can send commands: the run is the live one and Redis answers. */
  has_control: boolean;
  /** Null while no learner has reported. */
  control: ControlStatus | null;
  /** The worst first. */
  alerts: Array<AlertStatus>;
  /** The newest training step's. */
  metrics: Record<string, any>;
  /** The newest evaluation's. */
  evaluation: Record<string, any>;
  /** Windows by state: issued = trained + in flight + parked + dropped. */
  ledger: Record<string, any>;
  queues: Record<string, QueueStatus>;
  /** Results kept since the last committed checkpoint. */
  num_inbox_entries: number;
  dead_letters: DeadLettersStatus;
  /** Processes that announced themselves, those without a recent heartbeat too. */
  services: Array<ServiceStatus>;
}

export interface StepMark {
  step: number;
  /** When it ended, seconds since the epoch. */
  time: number;
}

export interface TokenColumns {
  position: Array<number>;
  /** What the token adds to the text; a character that several tokens make stands at the last of them. */
  text: Array<string>;
  token_id: Array<number>;
  window: Array<number | null>;
  policy_version: Array<number>;
  rollout_logprob: Array<number | null>;
  old_logprob: Array<number | null>;
  ratio: Array<number | null>;
  is_clipped: Array<boolean | null>;
  value: Array<number | null>;
  raw_advantage: Array<number | null>;
  advantage: Array<number | null>;
  /** What the response earned, discounted by the distance to its last token. */
  return: Array<number | null>;
  policy_mask: Array<boolean>;
  value_mask: Array<boolean>;
  /** Whether the policy sampled the token; a tool's output is not, and trains nothing. */
  is_sampled: Array<boolean>;
}

export interface WindowAnswer {
  window: number;
  generator: string;
  slot: number | null;
  /** Seconds since the epoch, like the other times. */
  requested: number | null;
  /** The policy's version when it was requested. */
  version_requested: number | null;
  started: number | null;
  /** Null while it is being sampled. */
  ended: number | null;
  /** TracedResponse tokens before it. */
  start: number;
  tokens: number;
  /** [policy version, number of tokens], in order. */
  versions: Array<[number, number]>;
  /** stop, length or failed. */
  finish: string;
  /** The response ended here. */
  is_finished: boolean;
  /** That trained it. */
  step: number | null;
}

export interface Windows {
  run: string;
  /** Seconds since the epoch; of a run that is over, the time of its last line. */
  now: number;
  /** Those that touch the stretch, by the time of their report, running ones last. */
  bars: Array<Bar>;
  steps: Array<StepMark>;
  /** Generator -> how many responses it extends at once. */
  slots: Record<string, number>;
}

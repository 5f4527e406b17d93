// What the page's modules hand to each other; the answers of the REST interface are in answers.d.ts.
import type {
  Bar, Configuration, Critic, Distributions, KeptResponses, LedgerReport, LogTail, MetricHistory, MetricNames, PageCheckpointAnswer, PageGeneratorAnswer,
  PageRolloutSummary, PageRunEvent, PageRunSummary, RewardFunctions, RolloutDetail, RunEvent, SamePrompt, Status,
  Windows,
} from "./answers";

interface Answers {
  checkpoints: PageCheckpointAnswer;
  configuration: Configuration;
  critic: Critic;
  events: PageRunEvent;
  generators: PageGeneratorAnswer;
  ledger: LedgerReport;
  metrics: MetricHistory;
  "metrics/distributions": Distributions;
  "metrics/names": MetricNames;
  responses: KeptResponses;
  "reward-functions": RewardFunctions;
  rollouts: PageRolloutSummary;
  runs: PageRunSummary;
  status: Status;
  windows: Windows;
}

/** The answer of an address below /api/v1. */
export type AnswerOf<Address extends string> =
  Address extends keyof Answers ? Answers[Address]
  : Address extends `rollouts/${string}/same-prompt` ? SamePrompt
  : Address extends `rollouts/${string}` ? RolloutDetail
  : Address extends `logs/${string}` ? LogTail
  : never;

/** Parameters of an address; those that are empty, null or undefined are left out. */
export type Query = Record<string, string | number | boolean | null | undefined>;

/** A line of metrics.jsonl. */
export type MetricLine = Record<string, any> & { step: number; time: number };

/** Where its numbers are missing, a column has null. */
export type Column = Array<number | null>;

interface Messages {
  status: Status;
  steps: { lines: MetricLine[] };
  evaluations: { lines: MetricLine[] };
  windows: { bars: Bar[] };
  events: { items: RunEvent[] };
  reset: object;
  /** The dashboard does not answer. */
  gone: { reason: string };
  /** It answers again. */
  back: object;
}

/** What a view receives: a message of the event stream, or the state of the connection. */
export type Receive = (...message: { [Kind in keyof Messages]: [kind: Kind, data: Messages[Kind]] }[keyof Messages]) => void;

/** What the page gives to a view. */
export interface Context {
  run: string;
  /** The parts of the page's address behind the view's name. */
  path: string[];
  parameters: URLSearchParams;
  /** The page's address of a view, for the run that is shown. */
  link(view: string, path?: string[], parameters?: Record<string, string>): string;
  /** The newest status; null before the first. */
  status(): Status | null;
  get<Address extends string>(address: Address, parameters?: Query): Promise<AnswerOf<Address>>;
  reload(): Promise<void>;
}

/** What a view's `show` returns. */
export interface ShownView {
  receive?: Receive;
  repaint?(): void;
  close?(): void;
}

export interface ViewModule {
  title: string;
  show(place: HTMLElement, context: Context): Promise<ShownView>;
}

/** What an element may contain. */
export type Child = Node | string | null | undefined | Child[];

type Listeners = { [Kind in keyof GlobalEventHandlersEventMap as `on${Kind}`]?: (event: GlobalEventHandlersEventMap[Kind]) => unknown };

/** Attributes and listeners of an element. */
export type Properties = Listeners & Record<string, unknown>;

/** A table's column: its title, the content of a row's cell, and "number" for numbers. */
export type TableColumn<Row> = [title: string, cell: (row: Row) => Child, kind?: "number"];

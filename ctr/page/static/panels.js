// What there is to see: tiles and charts, each shown where its numbers are there.

import { Calibration, Chart, bars, element } from './charts.js';
import { format, last } from './state.js';

const entropy = (rate) => (rate > 0 && rate < 1 ? -(rate * Math.log(rate) + (1 - rate) * Math.log(1 - rate)) : null);
const each = (values, f) => values.map((value, i) => (value === null ? null : f(value, i)));
const constant = (state, value) => state.t.map(() => value);
const age = (state, name) => each(state.curve(name), (moment, i) => (moment > 0 ? Math.max(0, state.t[i] - moment) : null));
const logistic = (state) => state.described.loss === 'logistic';

// {id, title, unit, needs(state), lines, show, curves(state), facts(state)}
const CHARTS = [
  {
    id: 'throughput', title: 'Throughput', unit: 'events a second', needs: 'ctr_events', show: format.rate,
    lines: [{ name: 'learned', colour: 'one', area: true }, { name: 'cannot be read', colour: 'three', trouble: true }],
    curves: (s) => [s.rate('ctr_events', { result: 'learned' }), s.rate('ctr_events', { result: 'refused' })],
    facts: (s) => [`${format.count(s.number('ctr_events', { result: 'learned' }))} since the start`],
  },
  {
    id: 'requests', title: 'Requests', unit: 'a second', needs: 'ctr_score_requests', show: format.rate,
    lines: [{ name: 'answered', colour: 'one', area: true }, { name: 'errors', colour: 'three', trouble: true }],
    curves: (s) => {
      const all = s.rate('ctr_score_requests');
      const good = s.rate('ctr_score_requests', { code: '200' });
      return [all, each(all, (value, i) => Math.max(0, value - (good[i] ?? 0)))];
    },
    facts: (s) => [`${format.rate(last(s.rate('ctr_score_rows')))} rows scored`, `${format.count(s.number('ctr_score_rows'))} since the start`],
  },
  {
    id: 'latency', title: 'Latency', unit: 'from a request’s head to its answer', needs: 'ctr_score_request_duration_seconds', show: format.seconds,
    lines: [{ name: 'half within', colour: 'one' }, { name: '99 % within', colour: 'two' }],
    curves: (s) => [s.quantile(0.5), s.quantile(0.99)],
  },
  {
    id: 'entropy', title: 'Normalised entropy', unit: 'lower is better', needs: (s) => s.has('ctr_normalized_entropy_ratio') && logistic(s),
    show: format.ratio, axis: format.ratio, zero: false,
    lines: [{ name: 'model', colour: 'one' }, { name: 'base rate', colour: 'grey', dashed: true }],
    curves: (s) => [s.curve('ctr_normalized_entropy_ratio'), constant(s, 1)],
    facts: (s) => [`last ${format.count(s.number('ctr_window_events'))} events, predicted before they are learned`],
  },
  {
    id: 'logloss', title: 'Logloss', unit: 'nats, lower is better', needs: (s) => s.has('ctr_logloss') && logistic(s), show: format.fine, axis: format.ratio, zero: false,
    lines: [{ name: 'model', colour: 'one' }, { name: 'base rate', colour: 'grey', dashed: true }],
    curves: (s) => [s.curve('ctr_logloss'), each(s.curve('ctr_base_rate_ratio'), entropy)],
    facts: (s) => [`base rate ${format.percent(s.number('ctr_base_rate_ratio'))}`],
  },
  {
    id: 'served', title: 'Served quality', unit: 'normalised entropy', zero: false, show: format.ratio, axis: format.ratio,
    needs: (s) => s.rows('ctr_normalized_entropy_ratio', { view: 'served' }).length > 0 && s.view === 'trainer',
    lines: [{ name: 'as answered', colour: 'two' }, { name: 'before learning', colour: 'one' }],
    curves: (s) => ['served', 'trainer'].map((view) => s.curve('ctr_normalized_entropy_ratio', { view })),
  },
  {
    id: 'auc', title: 'AUC', unit: '0.5 is chance', needs: (s) => s.has('ctr_auc_ratio') && logistic(s), show: format.ratio, axis: format.ratio, zero: false,
    lines: [{ name: 'model', colour: 'one' }],
    curves: (s) => [s.curve('ctr_auc_ratio')],
  },
  {
    id: 'calibration', title: 'Calibration', unit: 'sum of predictions over clicks', needs: (s) => s.has('ctr_calibration_ratio') && logistic(s), show: format.ratio, axis: format.ratio, zero: false,
    lines: [{ name: 'model', colour: 'one' }, { name: 'perfect', colour: 'grey', dashed: true }],
    curves: (s) => [s.curve('ctr_calibration_ratio'), constant(s, 1)],
  },
  {
    id: 'rmse', title: 'Error', unit: 'root of the mean square', needs: (s) => s.has('ctr_rmse') && !logistic(s), show: format.fine,
    lines: [{ name: 'model', colour: 'one', area: true }], curves: (s) => [s.curve('ctr_rmse')],
  },
  {
    id: 'joined', title: 'Answers', unit: 'a second', needs: 'ctr_join_answers', show: format.rate,
    lines: [{ name: 'joined with their event', colour: 'one', area: true }, { name: 'without', colour: 'two' }],
    curves: (s) => {
      const [joined, all] = [s.rate('ctr_join_answers', { result: 'joined' }), s.rate('ctr_join_answers')];
      return [joined, each(all, (value, i) => Math.max(0, value - joined[i]))];
    },
    facts: (s) => [`${format.count(s.number('ctr_join_answers', { result: 'joined' }))} joined`],
  },
  {
    id: 'waiting', title: 'Answers that wait', unit: 'for their event', needs: 'ctr_join_waiting', show: format.count,
    lines: [{ name: 'waiting', colour: 'four', area: true }], curves: (s) => [s.curve('ctr_join_waiting')],
  },
  {
    id: 'answered', title: 'Staleness', unit: 'of the answers joined', needs: 'ctr_join_staleness_seconds', show: format.seconds,
    lines: [{ name: 'age of the parameters', colour: 'two', area: true }], curves: (s) => [s.curve('ctr_join_staleness_seconds')],
  },
  {
    id: 'lag', title: 'Lag', unit: 'records or bytes left to read', needs: 'ctr_source_lag', show: format.count,
    lines: [{ name: 'left', colour: 'two', area: true }], curves: (s) => [s.curve('ctr_source_lag')],
    facts: (s) => {
      const rows = s.rows('ctr_source_lag').sort((a, b) => b.value - a.value);
      const count = rows.length + (s.answer.metrics.ctr_source_lag.rest ?? 0);
      return count > 1 ? [`${count} partitions, most in ${rows[0].labels.partition}: ${format.count(rows[0].value)}`] : [];
    },
  },
  {
    id: 'behind', title: 'Staleness', unit: 'age of what is known', needs: 'ctr_arrival_watermark_seconds', show: format.seconds,
    lines: [{ name: 'learned up to', colour: 'two', area: true }, { name: 'last commit', colour: 'one' }],
    curves: (s) => [age(s, 'ctr_arrival_watermark_seconds'), age(s, 'ctr_commit_last_seconds')],
  },
  {
    id: 'staleness', title: 'Staleness', unit: 'age of what is served', needs: 'ctr_staleness_seconds', show: format.seconds,
    lines: [{ name: 'arrived and in use', colour: 'two', area: true }, { name: 'last commit', colour: 'one' }],
    curves: (s) => [s.curve('ctr_staleness_seconds'), s.curve('ctr_commit_age_seconds')],
  },
  {
    id: 'commits', title: 'Commits', unit: 'rows in each', needs: 'ctr_commits', show: format.count, kind: 'stems',
    lines: [{ name: 'rows', colour: 'four' }],
    curves: (s) => {
      const [commits, rows] = [s.curve('ctr_commits'), s.curve('ctr_commit_rows')];
      return [rows.map((value, i) => (i && s.boots[i] === s.boots[i - 1] && value !== null && commits[i] > commits[i - 1] ? (value - rows[i - 1]) / (commits[i] - commits[i - 1]) : null))];
    },
    facts: (s) => [
      `${format.count(s.number('ctr_commits'))} so far`,
      `every ${format.seconds(s.number('ctr_commit_interval_seconds'))}`,
      ...(s.number('ctr_commit_retries') ? [`${format.count(s.number('ctr_commit_retries'))} tried again`] : []),
    ],
  },
  {
    id: 'rereads', title: 'Commits followed', unit: 'rows read again a second', needs: 'ctr_cache_rereads', show: format.rate,
    lines: [{ name: 'read again', colour: 'four', area: true }], curves: (s) => [s.rate('ctr_cache_rereads', {}, 2)],
    facts: (s) => [`${format.count(s.number('ctr_chain_breaks'))} breaks of the chain`],
  },
  {
    id: 'hits', title: 'Cache', unit: 'features known when asked for', needs: 'ctr_cache_features', show: format.percent, axis: (value) => `${Math.round(100 * value)} %`,
    lines: [{ name: 'known', colour: 'one' }],
    curves: (s) => {
      const [hits, misses] = ['hit', 'miss'].map((result) => s.rate('ctr_cache_features', { result }, 10));
      return [each(hits, (value, i) => (value + misses[i] > 0 ? value / (value + misses[i]) : null))];
    },
    facts: (s) => [`${format.count(s.number('ctr_cache_rows'))} rows, ${format.bytes(s.number('ctr_cache_bytes'))}`],
  },
  {
    id: 'table', title: 'Features', unit: 'rows of the table', needs: 'ctr_table_rows', show: format.count,
    lines: [{ name: 'held', colour: 'four', area: true }], curves: (s) => [s.curve('ctr_table_rows')],
    facts: (s) => [
      format.bytes(s.number('ctr_table_bytes')),
      `${format.rate(last(s.rate('ctr_table_created')))} new`,
      `${format.count(s.number('ctr_table_evicted') + s.number('ctr_table_expired'))} gone`,
    ],
  },
];

// Cards of bars: {id, title, unit, needs, rows(state)}
const BARS = [
  {
    id: 'stages', title: 'Where the time goes', unit: 'of one core, last seconds', needs: 'ctr_stage_seconds',
    rows: (s) => ['fetch', 'scan', 'learn', 'pack', 'commit'].map((stage) => {
      const share = last(s.rate('ctr_stage_seconds', { stage }, 10));
      return { name: stage, share, value: format.percent(share), colour: 'four' };
    }),
  },
  {
    id: 'unknown', title: 'Unknown to the model', unit: 'share of a field’s features, last minute', needs: 'ctr_field_features',
    rows: (s) => {
      const without = s.grown('ctr_field_features_without_row');
      return s.grown('ctr_field_features')
        .map(({ labels: { field }, value }) => {
          const none = without.find((row) => row.labels.field === field)?.value ?? 0;
          return { name: field, share: value ? none / value : null, value: value ? format.percent(none / value) : '–', colour: value && none / value > 0.95 ? 'three' : 'two' };
        })
        .sort((a, b) => (b.share ?? -1) - (a.share ?? -1) || (a.name < b.name ? -1 : 1))
        .slice(0, 6);
    },
  },
];

// What requests had other than the events they became.
BARS.push({
  id: 'skew', title: 'Skew', unit: 'requests that differ from their event, last minute', needs: 'ctr_skew_fields',
  rows: (s) => {
    const compared = s.grown('ctr_skew_compared')[0]?.value ?? 0;
    return s.grown('ctr_skew_fields')
      .map(({ labels: { field }, value }) => ({ name: field, share: value / compared, value: compared ? format.percent(value / compared) : '–', colour: value > 0 ? 'three' : 'four' }))
      .sort((a, b) => (b.share || 0) - (a.share || 0))
      .slice(0, 6);
  },
});

const CHECKS = {
  finite: ['rows that are no numbers', format.count],
  norm: ['largest weight', (value) => format.count(Number(value.toPrecision(3)))],
  entropy_rise: ['entropy risen by', format.ratio],
  normalized_entropy: ['normalised entropy', format.ratio],
  calibration: ['calibration off by', (value) => `× ${value.toFixed(2)}`],
};

// What the guard measured against what it allows.
BARS.push({
  id: 'guard', title: 'Guard', unit: 'measured, of what is allowed', needs: 'ctr_guard_value',
  rows: (s) => {
    const [values, limits] = ['value', 'limit'].map((what) => new Map(s.rows(`ctr_guard_${what}`).map((row) => [row.labels.check, row.value])));
    return [...new Set([...Object.keys(CHECKS), ...values.keys()])].filter((check) => values.has(check) || limits.has(check)).map((check) => {
      const [name, show] = CHECKS[check] ?? [check, format.count];
      const [value, limit] = [values.get(check), limits.get(check)];
      // without a limit, or without a value yet, there is nothing to compare
      const share = value === undefined || limit === undefined ? 0 : limit > 0 ? value / limit : Number(value > 0);
      return { name, share, value: value === undefined ? '–' : show(value), colour: share > 1 || (limit === 0 && value > 0) ? 'three' : 'four' };
    });
  },
  facts: (s) => {
    const refusals = s.rows('ctr_guard_refusals').reduce((sum, { value }) => sum + value, 0);
    const drift = s.rows('ctr_drift_detections').reduce((sum, { value }) => sum + value, 0);
    const at = s.number('ctr_drift_last_seconds');
    return [
      s.number('ctr_guard_refusing') ? 'holds a cut back' : s.number('ctr_guard_armed') ? 'judges every cut' : 'quality not judged yet: too few events',
      `${format.count(refusals)} held back`,
      `the stream changed ${format.count(drift)} ×${at > 0 ? `, last at ${format.clock(at)}` : ''}`,
    ];
  },
});

// {name, needs, value(state), note(state)}
const TILES = [
  { name: 'Learned', needs: 'ctr_events', value: (s) => format.rate(last(s.rate('ctr_events', { result: 'learned' }))), note: (s) => `${format.count(s.number('ctr_events', { result: 'learned' }))} events` },
  { name: 'Joined', needs: 'ctr_join_answers', value: (s) => format.rate(last(s.rate('ctr_join_answers', { result: 'joined' }))), note: (s) => `${format.count(s.number('ctr_join_waiting'))} wait` },
  { name: 'Requests', needs: 'ctr_score_requests', value: (s) => format.rate(last(s.rate('ctr_score_requests'))), note: (s) => `${format.count(s.number('ctr_score_rows'))} rows scored` },
  { name: '99 % within', needs: 'ctr_score_request_duration_seconds', value: (s) => format.seconds(last(s.quantile(0.99))), note: (s) => `half within ${format.seconds(last(s.quantile(0.5)))}` },
  { name: 'Lag', needs: 'ctr_source_lag', value: (s) => format.count(s.number('ctr_source_lag')), note: (s) => `learned up to ${format.seconds(last(age(s, 'ctr_arrival_watermark_seconds')))} ago` },
  { name: 'Staleness', needs: 'ctr_staleness_seconds', value: (s) => format.seconds(s.number('ctr_staleness_seconds')), note: (s) => `commit ${format.seconds(s.number('ctr_commit_age_seconds'))} ago` },
  { name: 'Last commit', needs: 'ctr_commit_last_seconds', value: (s) => { const at = s.number('ctr_commit_last_seconds'); return at > 0 ? `${format.seconds(Math.max(0, s.answer.looked - at))} ago` : 'none'; }, note: (s) => `every ${format.seconds(s.number('ctr_commit_interval_seconds'))}` },
  { name: 'Normalised entropy', needs: (s) => s.has('ctr_normalized_entropy_ratio') && logistic(s), value: (s) => format.ratio(s.number('ctr_normalized_entropy_ratio')), note: () => 'base rate 1' },
  { name: 'AUC', needs: (s) => s.has('ctr_auc_ratio') && logistic(s), value: (s) => format.ratio(s.number('ctr_auc_ratio')), note: () => 'chance 0.5' },
  { name: 'Error (RMSE)', needs: (s) => s.has('ctr_rmse') && !logistic(s), value: (s) => format.fine(s.number('ctr_rmse')), note: (s) => `mean label ${format.fine(s.number('ctr_base_rate_ratio'))}` },
  { name: 'Calibration', needs: (s) => s.has('ctr_calibration_ratio') && logistic(s), value: (s) => format.ratio(s.number('ctr_calibration_ratio')), note: () => 'perfect 1' },
  { name: 'Cache', needs: 'ctr_cache_rows', value: (s) => format.count(s.number('ctr_cache_rows')), note: (s) => `rows, ${format.bytes(s.number('ctr_cache_bytes'))}` },
  { name: 'Given the prior', needs: 'ctr_score_fallbacks', value: (s) => format.count(s.number('ctr_score_fallbacks')), note: () => 'rows since the start' },
];

// Bins of the calibration curve, each with what was predicted, what was clicked, and how many events.
function calibration(state) {
  const of = (name) => new Map(state.rows(name).map(({ labels: { bin }, value }) => [bin, value]));
  const [predicted, clicked, weight] = ['prediction_ratio', 'label_ratio', 'weight'].map((end) => of(`ctr_calibration_bin_${end}`));
  return [...predicted.keys()].map((bin) => ({ x: predicted.get(bin), y: clicked.get(bin), weight: weight.get(bin) }));
}

const needed = ({ needs }, state) => (typeof needs === 'string' ? state.has(needs) : needs(state));

export class Panels {
  constructor(tiles, grid) {
    this.tileHost = tiles;
    this.tiles = new Map();
    this.charts = CHARTS.map((panel) => ({ panel, chart: new Chart(grid, panel) }));
    this.bars = BARS.map((panel) => {
      const list = element('ul', { class: 'bars' });
      const facts = element('p', { class: 'facts' });
      const card = element('article', { class: 'card chart', id: panel.id },
        element('div', { class: 'heading' }, element('h3', { text: panel.title }), element('span', { class: 'unit', text: panel.unit })), list, facts);
      grid.append(card);
      return { panel, list, facts, card };
    });
    this.plot = new Calibration(grid, { id: 'plot', title: 'Calibration plot', unit: 'predicted against clicked' });
    this.plot.card.hidden = true;
    for (const { card } of [...this.charts.map(({ chart }) => chart), ...this.bars]) card.hidden = true;
  }

  update(state) {
    const shown = TILES.filter((tile) => needed(tile, state));
    if (shown.length !== this.tiles.size || !shown.every((tile) => this.tiles.has(tile.name))) {
      this.tiles = new Map(shown.map((tile) => [tile.name, element('div', {}, element('dt', { text: tile.name }), element('dd', { class: 'value' }), element('dd', { class: 'note' }))]));
      this.tileHost.replaceChildren(...this.tiles.values());
    }
    for (const tile of shown) {
      const [, value, note] = this.tiles.get(tile.name).children;
      value.textContent = tile.value(state);
      note.textContent = tile.note(state);
    }
    const to = state.t[state.t.length - 1] ?? state.answer.now;
    const from = Math.max(to - 600, Math.min(state.t[0] ?? to, to - 60));
    for (const { panel, chart } of this.charts) {
      chart.card.hidden = !needed(panel, state);
      if (!chart.card.hidden) chart.update({ t: state.t, curves: panel.curves(state), facts: panel.facts?.(state), from, to });
    }
    for (const { panel, list, facts, card } of this.bars) {
      card.hidden = !needed(panel, state);
      if (card.hidden) continue;
      bars(list, panel.rows(state));
      facts.textContent = (panel.facts?.(state) ?? []).join(' · ');
    }
    const points = calibration(state);
    this.plot.card.hidden = !points.length;
    if (points.length) this.plot.update(points);
  }
}

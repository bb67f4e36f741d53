// Answers of /page/state go in; present numbers, and curves of the last minutes, come out.

const SPAN_S = 600;
const MINUTE_S = 60;

export class State {
  constructor() {
    this.answer = null;
    this.t = [];
    this.boots = []; // of which process each sample is
    this.series = new Map();
    this.marks = [];
    this.model = null;
    this.view = null;
  }

  // Append what is new. A worker that was restarted begins its counters anew; the curves before stay.
  take(answer) {
    this.answer = answer;
    const { t, series } = answer.points;
    const last = this.t.length ? this.t[this.t.length - 1] : -Infinity;
    const from = t.findIndex((moment) => moment > last);
    if (from >= 0) {
      const before = this.t.length;
      this.t.push(...t.slice(from));
      this.boots.push(...t.slice(from).map(() => answer.boot));
      for (const { name, labels, values } of series) {
        const key = name + JSON.stringify(labels);
        if (!this.series.has(key)) this.series.set(key, { name, labels, values: new Array(before).fill(null) });
        this.series.get(key).values.push(...values.slice(from));
      }
      let old = 0;
      while (this.t[old] < this.t[this.t.length - 1] - SPAN_S) old += 1;
      this.t.splice(0, old);
      this.boots.splice(0, old);
      for (const [key, one] of this.series) {
        while (one.values.length < this.t.length + old) one.values.push(null);
        one.values.splice(0, old);
        if (one.values.every((value) => value === null)) this.series.delete(key);
      }
    }
    if (!this.marks.length || this.marks[0].boot !== answer.boot) this.marks = [];
    if (!this.marks.length || answer.looked >= this.marks[this.marks.length - 1].t + 10) {
      this.marks.push({ t: answer.looked, boot: answer.boot, metrics: answer.metrics });
      while (this.marks.length > 1 && this.marks[1].t <= answer.looked - MINUTE_S) this.marks.shift();
    }
    const judged = answer.metrics.ctr_window_events;
    const views = judged && judged.labels ? judged.values.map((row) => row[judged.labels.indexOf('view')]) : [];
    this.view = views.includes('trainer') ? 'trainer' : views[0];
    if (!answer.models.some((model) => model.name === this.model)) this.model = answer.models[0].name;
  }

  // What metrics with these labels are shown of: a model, and the predictions of trainer or scorer.
  get shown() {
    return { model: this.model, view: this.view };
  }

  get described() {
    return this.answer.models.find((model) => model.name === this.model);
  }

  has(name) {
    return name in this.answer.metrics;
  }

  // One number, summed over the labels that are not given; null where there is none. Of the model that is shown.
  number(name, labels = {}) {
    const whole = this.answer.metrics[name];
    if (whole && whole.rest !== undefined) return whole.sum; // of many partitions only the largest are here
    const found = rows(this.answer.metrics, name, this.shown, labels);
    if (!found.length) return null;
    return found.reduce((sum, row) => sum + row.value, 0);
  }

  // [{labels, value}] of a metric with labels, of the model that is shown.
  rows(name, labels = {}) {
    return rows(this.answer.metrics, name, this.shown, labels);
  }

  // The same, but by how much counters grew in about the last minute (since the page was opened, if that is less).
  grown(name, labels = {}) {
    const before = rows(this.marks[0].metrics, name, this.shown, labels);
    return this.rows(name, labels).map((row) => {
      const same = before.find((one) => JSON.stringify(one.labels) === JSON.stringify(row.labels));
      return { labels: row.labels, value: Math.max(0, row.value - (same ? same.value : 0)) };
    });
  }

  // A curve along this.t: the sum of all series that fit; null where none has a value.
  curve(name, labels = {}) {
    const sum = new Array(this.t.length).fill(null);
    for (const one of this.series.values()) {
      if (one.name !== name || !fits(one.labels, this.shown, labels)) continue;
      one.values.forEach((value, i) => {
        if (value !== null) sum[i] = (sum[i] ?? 0) + value;
      });
    }
    return sum;
  }

  // A counter's growth by the second, over at least `over` seconds where there are; null where it began anew.
  rate(name, labels = {}, over = 4) {
    const values = this.curve(name, labels);
    return values.map((value, i) => {
      let j = i - 1;
      while (j > 0 && this.t[i] - this.t[j] < over && this.boots[j - 1] === this.boots[i]) j -= 1;
      if (j < 0 || this.boots[j] !== this.boots[i] || value === null || values[j] === null) return null;
      return (value - values[j]) / (this.t[i] - this.t[j]);
    });
  }

  // Quantiles of request durations, from how the buckets grew over the last seconds.
  quantile(q, over = 15) {
    const name = 'ctr_score_request_duration_seconds';
    const buckets = [...this.series.values()]
      .filter((one) => one.name === name)
      .map((one) => ({ bound: one.labels.le === '+Inf' ? Infinity : Number(one.labels.le), values: one.values }))
      .sort((a, b) => a.bound - b.bound);
    return this.t.map((now, i) => {
      let j = i;
      while (j > 0 && now - this.t[j] < over && this.boots[j - 1] === this.boots[i]) j -= 1;
      const upTo = buckets.map(({ values }) => (values[i] ?? 0) - (values[j] ?? 0)); // cumulated
      const all = upTo[upTo.length - 1];
      if (!(all > 0)) return null;
      const b = upTo.findIndex((count) => count >= q * all);
      const low = b ? buckets[b - 1].bound : 0;
      const high = Number.isFinite(buckets[b].bound) ? buckets[b].bound : 2 * low;
      const below = b ? upTo[b - 1] : 0;
      return low + ((high - low) * (q * all - below)) / (upTo[b] - below);
    });
  }
}

// Of quality, where nothing else is asked for: the last events of all slices.
const USUAL = { window: 'events', slice: 'all' };

function fits(found, shown, labels) {
  for (const [name, value] of Object.entries({ ...USUAL, ...shown })) {
    if (name in found && !(name in labels) && found[name] !== value) return false;
  }
  return Object.entries(labels).every(([name, value]) => found[name] === value);
}

function rows(metrics, name, shown, labels) {
  const value = metrics[name];
  if (value === undefined || value === null) return [];
  if (typeof value === 'number') return [{ labels: {}, value }];
  return value.values
    .map((row) => ({
      labels: Object.fromEntries(value.labels.map((label, i) => [label, row[i]])),
      value: row[row.length - 1],
    }))
    .filter((row) => row.value !== null && fits(row.labels, shown, labels));
}

export const last = (values) => {
  for (let i = values.length - 1; i >= Math.max(0, values.length - 4); i -= 1) if (values[i] !== null) return values[i];
  return null;
};

// Numbers for eyes.

const DASH = '–';

function scaled(value, base, units) {
  let at = 0;
  let size = Math.abs(value);
  while (size >= base * 0.9995 && at < units.length - 1) {
    size /= base;
    at += 1;
  }
  const digits = at === 0 && Number.isInteger(value) ? 0 : size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
  return [(Math.sign(value) * size).toFixed(digits), units[at]];
}

const number = (format) => (value) => (value === null || value === undefined || !Number.isFinite(value) ? DASH : format(value));

// For an axis: 2.50 k becomes 2.5 k.
export const short = (show) => (value) => show(value).replace(/(\.\d*?)0+(?!\d)/, '$1').replace(/\.(?!\d)/, '');

export const format = {
  count: number((value) => scaled(value, 1000, ['', ' k', ' M', ' G']).join('')),
  rate: number((value) => `${scaled(Math.round(value * 100) / 100, 1000, ['', ' k', ' M', ' G']).join('')}/s`),
  bytes: number((value) => scaled(value, 1024, [' B', ' KiB', ' MiB', ' GiB', ' TiB']).join('')),
  ratio: number((value) => value.toFixed(3)),
  fine: number((value) => value.toFixed(4)),
  percent: number((value) => {
    const hundred = value * 100;
    return `${hundred.toFixed(Math.abs(hundred) < 0.995 ? 2 : Math.abs(hundred) < 9.95 ? 2 : 1)} %`;
  }),
  seconds: number((value) => {
    if (value === 0) return '0 s';
    if (value < 0.0009995) return `${(value * 1e6).toFixed(0)} µs`;
    if (value < 0.9995) return `${(value * 1000).toPrecision(3).replace(/\.0+$/, '')} ms`;
    if (value < 119.5) return `${value.toFixed(value < 9.95 ? 1 : 0)} s`;
    if (value < 7170) return `${(value / 60).toFixed(0)} min`;
    return value < 172000 ? `${(value / 3600).toFixed(1)} h` : `${(value / 86400).toFixed(0)} days`;
  }),
  clock: (seconds) => new Date(seconds * 1000).toLocaleTimeString('en-GB'),
};

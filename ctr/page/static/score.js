// An event goes in, its prediction and where that comes from come out; slices, and the features that weigh most.

import { diverging, element } from './charts.js';
import { format } from './state.js';

const MOST = 14;
const PATIENCE_MS = 60000; // a trainer's first answer loads kernels
const signed = (value) => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(3)}`;

export class Scoring {
  // ask(url, options) -> {ok, status, headers, body}, with the token where there is one
  constructor(state, ask) {
    this.state = state;
    this.ask = ask;
    this.example = null;
    this.event = document.getElementById('event');
    this.error = document.getElementById('event-error');
    this.answer = document.getElementById('answer');
    document.getElementById('scoring').addEventListener('submit', (submitted) => {
      submitted.preventDefault();
      this.score();
    });
    this.event.addEventListener('keydown', (pressed) => {
      if (pressed.key === 'Enter' && (pressed.ctrlKey || pressed.metaKey)) this.score();
    });
    document.getElementById('example').addEventListener('click', () => this.fill());
  }

  // An example to change, as long as nobody has typed anything.
  offer(example) {
    this.example = example;
    if (!this.event.value || this.event.value === this.filled) this.fill();
  }

  fill() {
    const { columns } = this.state.described;
    const example = this.example ?? Object.fromEntries(columns.slice(0, 12).map((column) => [column, '']));
    this.filled = JSON.stringify(example, null, 2);
    this.event.value = this.filled;
    this.say('');
  }

  say(what) {
    this.error.textContent = what;
    if (what) this.event.setAttribute('aria-invalid', 'true');
    else this.event.removeAttribute('aria-invalid');
  }

  async score() {
    const text = this.event.value.trim();
    try {
      const parsed = JSON.parse(text);
      if (parsed === null || typeof parsed !== 'object' || Array.isArray(parsed)) throw new SyntaxError('an object is needed: {"field": value, …}');
    } catch (error) {
      this.say(`This is no event: ${error.message}`);
      this.event.focus();
      return;
    }
    this.say('');
    const button = document.getElementById('ask');
    button.disabled = true;
    try {
      // The text as it was typed: to parse it and write it again would round large integers.
      const reply = await this.ask(this.state.described.explain, {
        method: 'POST', headers: { 'content-type': 'application/json' }, body: `{"instances": [${text}]}`,
      }, PATIENCE_MS);
      if (reply.ok) this.show(reply.body.explanations[0], reply.headers);
      else this.say(reply.body.error ?? `answered with ${reply.status}`);
    } catch (error) {
      this.say(`This worker cannot be reached: ${error.message}`);
    } finally {
      button.disabled = false;
    }
  }

  show(explained, headers) {
    const known = explained.features.filter((feature) => feature.known);
    const terms = [
      ...known.map((feature) => ({ name: feature.name, term: feature.contribution })),
      ...explained.pairs.map((pair) => ({ name: pair.features.join(' × '), term: pair.contribution })),
    ].sort((a, b) => Math.abs(b.term) - Math.abs(a.term));
    const rest = terms.slice(MOST);
    const rows = [...terms.slice(0, MOST)];
    if (rest.length) rows.push({ name: rest.length > 1 ? `${rest.length} others` : 'one other', term: rest.reduce((sum, { term }) => sum + term, 0) });
    const logistic = this.state.described.loss === 'logistic';
    const version = headers.get('x-ctr-version');
    const age = Number(headers.get('x-ctr-staleness-seconds') ?? NaN);
    const made = [
      explained.model,
      ...(version ? [`commit ${version.split('-')[0]}`] : ['as last committed']),
      ...(Number.isFinite(age) ? [`${format.seconds(age)} old`] : []),
      ...(headers.get('x-ctr-stale') ? ['may be too old'] : []),
    ];
    const nothing = explained.features.filter((feature) => !feature.known).map((feature) => feature.name);
    const table = element('table', { class: 'diverging' },
      element('caption', { class: 'unseen', text: 'What adds to the logit' }),
      element('thead', {}, element('tr', {}, element('th', { scope: 'col', text: 'feature or pair' }),
        element('th', { scope: 'col', class: 'ends' }, element('span', { text: '← less' }), element('span', { text: 'more →' })),
        element('th', { scope: 'col', class: 'term', text: 'logit' }))),
      element('tbody', {}, ...diverging(rows, signed)),
      element('tfoot', {}, ...[['bias', explained.bias], ['sum, the logit', explained.logit]].map(([name, value]) => element('tr', {},
        element('th', { scope: 'row', text: name }), element('td'), element('td', { class: 'term', text: signed(value) })))));
    this.answer.replaceChildren(
      element('p', { class: 'prediction' },
        element('b', { id: 'prediction', text: logistic ? format.percent(explained.prediction) : format.fine(explained.prediction) }),
        element('span', { text: made.join(' · ') })),
      table,
      ...(nothing.length ? [element('p', { class: 'hint', text: `Missing or unknown, adding nothing: ${nothing.join(', ')}` })] : []),
    );
  }
}

const COLUMNS = [
  ['ctr_window_events', format.count], ['ctr_base_rate_ratio', format.percent], ['ctr_normalized_entropy_ratio', format.ratio],
  ['ctr_auc_ratio', format.ratio], ['ctr_calibration_ratio', format.ratio],
];

export function showSlices(section, slices, view) {
  const shown = slices.filter((row) => row.view === view).slice(0, 24);
  section.hidden = !shown.length;
  section.querySelector('#slices-unit').textContent = 'the last events of each';
  section.querySelector('tbody').replaceChildren(...shown.map((row) => element('tr', {},
    element('th', { scope: 'row', text: row.slice }),
    ...COLUMNS.map(([name, show]) => {
      const poor = name === 'ctr_normalized_entropy_ratio' && row[name] >= 1;
      return element('td', { class: poor ? 'poor' : null, text: show(row[name]) });
    }))));
}

// Two tables: the largest linear weights, and the features learned most often.
export function showFeatures(host, { weight, updates }) {
  if (!updates.length) {
    host.replaceChildren(element('p', { class: 'hint', text: 'Nothing is learned yet.' }));
    return;
  }
  const words = ({ name, field, key }) => name ?? `${field} #${key.slice(0, 8)}`;
  const seen = (feature) => `${format.count(feature.updates)} events`;
  const most = Math.max(...updates.map((feature) => feature.updates));
  const table = (id, caption, rows) => element('table', { class: 'diverging', id },
    element('caption', { text: caption }), element('tbody', {}, ...rows));
  host.replaceChildren(
    table('by-weight', 'with the largest linear weights', diverging(weight.map((feature) => ({ name: words(feature), note: seen(feature), term: feature.weight })), signed)),
    table('by-updates', 'learned most often', updates.map((feature) => {
      const bar = element('span', { class: 'bar b-four' });
      bar.style.width = `${((100 * feature.updates) / most).toFixed(1)}%`;
      return element('tr', {},
        element('th', { scope: 'row' }, element('span', { class: 'words', text: words(feature) })),
        element('td', { class: 'terms', 'aria-hidden': 'true' }, element('span', { class: 'track plain' }, bar)),
        element('td', { class: 'term', text: format.count(feature.updates) }));
    })),
  );
  if ([...weight, ...updates].every((feature) => feature.name === null)) {
    host.append(element('p', { class: 'hint', text: 'Start the trainer with --names 0.01 to see values instead of keys.' }));
  }
}

// Asks the worker once a second and shows what it says; survives its restarts, and says so.

import { element } from './charts.js';
import { Panels } from './panels.js';
import { Scoring, showFeatures, showSlices } from './score.js';
import { State, format } from './state.js';

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const FEATURES_MS = 10000;
const KEPT = 'ctr-token';

const by = (id) => document.getElementById(id);
const state = new State();
const panels = new Panels(by('tiles'), by('charts'));
const scoring = new Scoring(state, ask);
let next = '';
let awaySince = null;
let featuresAt = -Infinity;
let timer = null;
let drawn = false;

async function ask(url, options = {}, patience = PATIENCE_MS) {
  const token = sessionStorage.getItem(KEPT);
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  const reply = await fetch(url, { ...options, headers, cache: 'no-store', signal: AbortSignal.timeout(patience) });
  const body = (reply.headers.get('content-type') ?? '').includes('json') ? await reply.json() : {};
  return { ok: reply.ok, status: reply.status, headers: reply.headers, body };
}

async function turn() {
  clearTimeout(timer);
  if (document.hidden) return; // nobody looks; the worker keeps the curves
  const began = performance.now();
  try {
    const reply = await ask(`page/state?after=${next}`);
    if (reply.status === 401) return askForToken(sessionStorage.getItem(KEPT) ? 'That is not the token.' : '');
    if (!reply.ok) throw new Error(reply.body.error ?? `status ${reply.status}`);
    awaySince = null;
    next = reply.body.next;
    state.take(reply.body);
    show();
    if (began - featuresAt >= FEATURES_MS) {
      featuresAt = began;
      lookAtFeatures();
    }
  } catch (error) {
    awaySince ??= Date.now() / 1000;
    showAway();
  }
  timer = setTimeout(turn, Math.max(100, EVERY_MS - (performance.now() - began)));
  return undefined;
}

async function lookAtFeatures() {
  try {
    const model = state.model;
    const reply = await ask(`page/features?model=${encodeURIComponent(model)}`);
    if (!reply.ok || model !== state.model) return;
    if (!reply.body.rows && state.described.features) featuresAt -= FEATURES_MS - 2000; // nothing yet: soon again
    showFeatures(by('top'), reply.body);
    scoring.offer(reply.body.example);
    if (!state.view) return;
    const judged = await ask('page/slices');
    if (judged.ok) showSlices(by('slices'), judged.body.slices, state.view);
  } catch {
    featuresAt = -Infinity; // with the next turn that succeeds
  }
}

function show() {
  const { answer } = state;
  by('main').hidden = false;
  document.body.classList.remove('away');
  const { id } = state.described;
  document.title = `${worst(answer.alerts)}${id} · ${answer.worker}`;
  by('model').textContent = id;
  by('role').hidden = !answer.role || answer.role === answer.worker;
  by('role').textContent = answer.role ?? '';
  chooseModels(answer.models);
  say('live', `live, ${format.clock(answer.looked)}`);
  showAlerts(answer.alerts);
  panels.update(state);
  if (!drawn) requestAnimationFrame(() => setTimeout(() => performance.mark('drawn'))); // after that frame
  drawn = true;
  by('features').hidden = !state.described.features;
  by('openapi').hidden = answer.worker !== 'scorer';
  const up = format.seconds(answer.now - answer.started);
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const build = state.rows('ctr_build_info')[0];
  by('about').textContent = `ctr ${answer.version}${build ? `, kernels ${build.labels.isa}` : ''} · up ${up} · times are ${zone}`;
}

function showAway() {
  const since = format.clock(awaySince);
  say('away', `not reachable since ${since}`);
  document.body.classList.add('away');
  if (state.answer) {
    showAlerts([{
      level: 'bad', what: `This worker has not answered since ${since}`,
      meaning: 'It was stopped, restarts, or the way to it is broken. Below is what it said last; this page goes on asking.',
    }]);
  }
}

function say(kind, what) {
  by('connection').className = `connection ${kind}`;
  if (kind === 'live' && by('said').dataset.kind === 'live') by('said').firstChild.data = what;
  else by('said').replaceChildren(what);
  by('said').dataset.kind = kind;
  // what changes every second is no news for somebody who listens
  by('connection').setAttribute('aria-live', kind === 'live' ? 'off' : 'polite');
}

const worst = (alerts) => (alerts.some(({ level }) => level === 'bad') ? '● ' : '');

let told = null;
function showAlerts(alerts) {
  const now = JSON.stringify(alerts);
  if (now === told) return;
  told = now;
  const lines = alerts.length ? alerts : [{ level: 'good', what: 'Nothing is wrong', meaning: 'Services answer, numbers are within their bounds.' }];
  by('alert-list').replaceChildren(...lines.map(({ level, what, meaning }) => element('li', { class: `alert ${level}` },
    element('span', { class: 'sign', 'aria-hidden': 'true', text: { good: '✓', warning: '!', bad: '✕' }[level] }),
    element('div', {}, element('strong', { text: what }), element('span', { text: meaning })))));
}

function chooseModels(models) {
  by('chooser').hidden = models.length < 2;
  const chooser = by('models');
  if (chooser.options.length !== models.length) {
    chooser.replaceChildren(...models.map(({ name }) => element('option', { value: name, text: name })));
  }
  chooser.value = state.model;
}

by('models').addEventListener('change', () => {
  state.model = by('models').value;
  featuresAt = -Infinity;
  show();
  scoring.fill();
});

function askForToken(refused) {
  sessionStorage.removeItem(KEPT);
  by('main').hidden = true;
  by('token').hidden = false;
  by('refused').textContent = refused;
  say('waiting', 'waiting for the token');
  by('secret').focus();
}

by('token').addEventListener('submit', (submitted) => {
  submitted.preventDefault();
  sessionStorage.setItem(KEPT, by('secret').value.trim());
  by('secret').value = '';
  by('token').hidden = true;
  turn();
});

document.addEventListener('visibilitychange', () => {
  if (document.hidden) clearTimeout(timer);
  else if (by('token').hidden) turn();
});

// Without a token to send the first request would only be refused.
if (document.documentElement.dataset.token === 'yes' && !sessionStorage.getItem(KEPT)) askForToken('');
else turn();

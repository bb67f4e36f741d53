// Curves go in, SVG comes out: axes, units, and one moment that all charts show together.

import { format, short } from './state.js';

const SVG = 'http://www.w3.org/2000/svg';
const HEIGHT = 148;
const MARGIN = { top: 8, right: 10, bottom: 20, left: 48 };
const GAP_S = 13; // without a sample for so long a curve is interrupted

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  fill(made, attributes);
  made.append(...children);
  return made;
}

export function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  fill(made, attributes);
  made.append(...children);
  return made;
}

function fill(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') made.textContent = value;
    else if (value === true) made.setAttribute(name, '');
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
}

// The moment that is pointed at, seconds since 1970; null: now.
export const cursor = {
  t: null,
  told: new Set(),
  set(t) {
    if (t === this.t) return;
    this.t = t;
    for (const tell of this.told) tell();
  },
};

// Round numbers that cover [low, high], about `most` of them.
export function ticks(low, high, most) {
  const raw = (high - low) / Math.max(1, most) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((size) => size >= raw * 0.999) ?? 10 * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return { step, found };
}

const TIME_STEPS = [5, 10, 15, 30, 60, 120, 300, 600];

// One card: title, what the curves are and their values, and the plot.
export class Chart {
  // lines: [{name, colour}]; references: [{name}] whose values come with each update, drawn as level lines.
  constructor(host, { id, title, unit, lines, zero = true, kind = 'line', show = format.count, axis = short(show) }) {
    Object.assign(this, { id, title, unit, lines, zero, kind, show, axis });
    this.data = null;
    this.values = lines.map(({ colour }) => element('b', { class: `c-${colour}` }));
    this.entries = lines.map(({ name, colour, dashed }, i) => element('li', {},
      element('span', { class: `swatch b-${colour}${dashed ? ' dashed' : ''}`, 'aria-hidden': 'true' }),
      element('span', { text: name }), this.values[i]));
    this.legend = element('ul', { class: 'legend' }, ...this.entries);
    this.facts = element('p', { class: 'facts' });
    this.svg = drawn('svg', { class: 'plot', height: HEIGHT, 'aria-hidden': 'true' });
    this.plot = element('div', {
      class: 'plotbox', tabindex: 0, role: 'group', 'aria-roledescription': 'chart', 'aria-labelledby': `${id}-title`,
      'aria-describedby': `${id}-summary`,
    }, this.svg);
    this.summary = element('p', { class: 'unseen', id: `${id}-summary` });
    this.card = element('article', { class: 'card chart', id },
      element('div', { class: 'heading' }, element('h3', { id: `${id}-title`, text: title }), element('span', { class: 'unit', text: unit })),
      this.legend, this.plot, this.facts, this.summary);
    host.append(this.card);
    this.plot.addEventListener('pointermove', (event) => this.point(event));
    this.plot.addEventListener('pointerdown', (event) => this.point(event));
    this.plot.addEventListener('pointerleave', () => cursor.set(null));
    this.plot.addEventListener('keydown', (event) => this.walk(event));
    this.plot.addEventListener('blur', () => cursor.set(null));
    cursor.told.add(() => this.mark());
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  update(data) {
    this.data = data; // {t, curves: [values], facts: [text], from, to}
    // of trouble that is not there nothing is said
    this.silent = this.lines.map(({ trouble }, i) => Boolean(trouble) && !data.curves[i].some((value) => value > 0));
    this.entries.forEach((entry, i) => { entry.hidden = this.silent[i]; });
    this.facts.textContent = (data.facts ?? []).join(' · ');
    this.facts.hidden = !this.facts.textContent;
    this.draw();
  }

  point(event) {
    if (!this.data || !this.data.t.length) return;
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    cursor.set(this.nearest(this.from + ((x - MARGIN.left) / this.inner) * (this.to - this.from)));
  }

  walk(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30, Home: -Infinity, End: Infinity };
    if (event.key === 'Escape') cursor.set(null);
    if (!(event.key in moves) || !this.data || !this.data.t.length) return;
    event.preventDefault();
    const { t } = this.data;
    const at = cursor.t === null ? t.length - 1 : t.indexOf(this.nearest(cursor.t)) + moves[event.key];
    const moment = t[Math.max(0, Math.min(t.length - 1, at))];
    cursor.set(moment);
    const words = this.lines.map(({ name }, i) => `${name} ${this.show(this.at(i, moment))}`);
    document.getElementById('readout').textContent = `${format.clock(moment)}: ${words.join(', ')}`;
  }

  nearest(moment) {
    return this.data.t.reduce((best, t) => (Math.abs(t - moment) < Math.abs(best - moment) ? t : best));
  }

  at(line, moment) {
    const { t, curves } = this.data;
    const i = moment === null ? t.length - 1 : t.indexOf(moment);
    for (let j = i; j >= Math.max(0, i - (moment === null ? 3 : 0)); j -= 1) {
      if (curves[line][j] !== null && curves[line][j] !== undefined) return curves[line][j];
    }
    return null;
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!this.data || !width) return;
    const { t, curves } = this.data;
    const inner = { w: width - MARGIN.left - MARGIN.right, h: HEIGHT - MARGIN.top - MARGIN.bottom };
    this.inner = inner.w;
    [this.from, this.to] = [this.data.from, this.data.to];
    const x = (moment) => MARGIN.left + ((moment - this.from) / (this.to - this.from)) * inner.w;
    const known = curves.flat().filter((value) => value !== null && Number.isFinite(value));
    let [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
    if (this.zero) [low, high] = [Math.min(0, low), high > 0 ? high * 1.05 : Math.max(high, low + 1)];
    else {
      const pad = (high - low) * 0.12 || Math.abs(high) * 0.01 || 0.01;
      [low, high] = [low - pad, high + pad];
    }
    const { found, step } = ticks(low, high, this.zero ? 3 : 4);
    if (this.zero && found[found.length - 1] < high) high = Math.max(high, found[found.length - 1] + step * 0.25);
    const y = (value) => MARGIN.top + inner.h - ((value - low) / (high - low)) * inner.h;
    this.scale = { x, y };
    this.svg.setAttribute('width', width);
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    const parts = [];
    for (const value of found) {
      const at = Math.round(y(value)) + 0.5;
      parts.push(drawn('line', { class: 'rule', x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }));
      parts.push(drawn('text', { class: 'tick', x: MARGIN.left - 7, y: at + 4, 'text-anchor': 'end', text: this.axis(value) }));
    }
    const base = MARGIN.top + inner.h;
    const stride = TIME_STEPS.find((seconds) => ((this.to - this.from) / seconds) * (seconds < 60 ? 66 : 52) <= inner.w) ?? 600;
    const zone = new Date(this.to * 1000).getTimezoneOffset() * 60;
    for (let at = Math.ceil((this.from - zone) / stride) * stride + zone; at <= this.to; at += stride) {
      const clock = format.clock(at);
      parts.push(drawn('line', { class: 'axis', x1: x(at), x2: x(at), y1: base, y2: base + 4 }));
      const edge = x(at) > width - 26 ? 'end' : 'middle';
      parts.push(drawn('text', {
        class: 'tick', x: edge === 'end' ? width - 2 : x(at), y: HEIGHT - 3, 'text-anchor': edge,
        text: stride < 60 ? clock : clock.slice(0, 5),
      }));
    }
    parts.push(drawn('line', { class: 'axis', x1: MARGIN.left, x2: width - MARGIN.right, y1: base + 0.5, y2: base + 0.5 }));
    if (this.kind === 'stems') parts.push(...this.stems(t, curves[0], x, y, base));
    else curves.forEach((values, i) => this.silent[i] || parts.push(...this.curve(t, values, this.lines[i], x, y, base)));
    this.marker = drawn('g', { class: 'marker' });
    parts.push(this.marker);
    if (!known.length) {
      parts.push(drawn('text', { class: 'tick', x: MARGIN.left + inner.w / 2, y: MARGIN.top + inner.h / 2, 'text-anchor': 'middle', text: 'nothing yet' }));
    }
    this.svg.replaceChildren(...parts);
    this.mark();
    this.describe(known.length > 0);
  }

  curve(t, values, { colour, dashed, area }, x, y, base) {
    const pieces = [[]];
    values.forEach((value, i) => {
      const broken = value === null || !Number.isFinite(value) || (i && t[i] - t[i - 1] > GAP_S);
      if (broken && pieces[pieces.length - 1].length) pieces.push([]);
      if (value !== null && Number.isFinite(value)) pieces[pieces.length - 1].push([x(t[i]), y(value)]);
    });
    const shapes = [];
    for (const piece of pieces.filter((one) => one.length)) {
      const path = piece.map(([a, b], i) => `${i ? 'L' : 'M'}${a.toFixed(1)} ${b.toFixed(1)}`).join('');
      if (area && piece.length > 1) {
        const closed = `${path}L${piece[piece.length - 1][0].toFixed(1)} ${base}L${piece[0][0].toFixed(1)} ${base}Z`;
        shapes.push(drawn('path', { class: `area f-${colour}`, d: closed }));
      }
      if (piece.length === 1) shapes.push(drawn('circle', { class: `f-${colour}`, cx: piece[0][0], cy: piece[0][1], r: 1.6 }));
      else shapes.push(drawn('path', { class: `curve s-${colour}${dashed ? ' dashed' : ''}`, d: path }));
    }
    return shapes;
  }

  stems(t, values, x, y, base) {
    const { colour } = this.lines[0];
    const width = Math.max(1, Math.min(5, (this.inner / ((this.to - this.from) || 1)) * 0.6));
    return values.flatMap((value, i) => (value === null || value <= 0 ? [] : [
      drawn('rect', { class: `f-${colour}`, x: (x(t[i]) - width / 2).toFixed(1), y: Math.min(y(value), base - 1).toFixed(1), width: width.toFixed(1), height: Math.max(1, base - y(value)).toFixed(1) }),
    ]));
  }

  // The values beside the names: of the moment that is pointed at, else of now.
  mark() {
    if (!this.data || !this.scale) return;
    const moment = cursor.t !== null && this.data.t.includes(cursor.t) ? cursor.t : null;
    this.lines.forEach((_, i) => { this.values[i].textContent = this.show(this.at(i, moment)); });
    this.card.classList.toggle('pointed', moment !== null);
    const parts = [];
    if (moment !== null && moment >= this.from) {
      const { x, y } = this.scale;
      parts.push(drawn('line', { class: 'hair', x1: x(moment), x2: x(moment), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
      if (this.kind === 'line') {
        this.lines.forEach(({ colour }, i) => {
          const value = this.at(i, moment);
          if (value !== null && !this.silent[i]) parts.push(drawn('circle', { class: `dot f-${colour}`, cx: x(moment), cy: y(value), r: 3.5 }));
        });
      }
    }
    this.marker.replaceChildren(...parts);
  }

  describe(known) {
    const minutes = Math.max(1, Math.round((this.to - this.from) / 60));
    const words = this.lines.map(({ name }, i) => {
      const values = this.data.curves[i].filter((value) => value !== null);
      return values.length
        ? `${name}: now ${this.show(this.at(i, null))}, from ${this.show(Math.min(...values))} to ${this.show(Math.max(...values))}`
        : `${name}: nothing`;
    });
    this.summary.textContent = known ? `Last ${minutes} min. ${words.join('. ')}.` : 'Nothing yet.';
  }
}

// Points of {x, y, weight}, both axes alike and logarithmic: on the diagonal where predictions are right.
export class Calibration {
  constructor(host, { id, title, unit }) {
    this.points = [];
    this.at = null;
    this.said = element('p', { class: 'legend' });
    this.svg = drawn('svg', { class: 'plot', height: HEIGHT + 62, 'aria-hidden': 'true' });
    this.plot = element('div', { class: 'plotbox', tabindex: 0, role: 'group', 'aria-roledescription': 'chart', 'aria-labelledby': `${id}-title`, 'aria-describedby': `${id}-summary` }, this.svg);
    this.summary = element('p', { class: 'unseen', id: `${id}-summary` });
    this.card = element('article', { class: 'card chart', id },
      element('div', { class: 'heading' }, element('h3', { id: `${id}-title`, text: title }), element('span', { class: 'unit', text: unit })),
      this.said, this.plot, this.summary);
    host.append(this.card);
    this.plot.addEventListener('pointermove', (event) => {
      const box = this.plot.getBoundingClientRect();
      const far = ({ px, py }) => Math.hypot(px - (event.clientX - box.left), py - (event.clientY - box.top));
      this.choose(this.points.reduce((best, point, i) => (best === null || far(point) < far(this.points[best]) ? i : best), null));
    });
    this.plot.addEventListener('pointerleave', () => this.choose(null));
    this.plot.addEventListener('blur', () => this.choose(null));
    this.plot.addEventListener('keydown', (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move || !this.points.length) return;
      event.preventDefault();
      this.choose(Math.max(0, Math.min(this.points.length - 1, (this.at ?? -move) + move)));
      document.getElementById('readout').textContent = this.said.textContent;
    });
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  update(points) {
    this.points = points.filter(({ x, y, weight }) => x > 0 && y >= 0 && weight > 0).sort((a, b) => a.x - b.x);
    this.draw();
  }

  choose(at) {
    this.at = at;
    this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width || !this.points.length) return;
    const height = HEIGHT + 62;
    const bottom = MARGIN.bottom + 16;
    const inner = { w: width - MARGIN.left - MARGIN.right, h: height - MARGIN.top - bottom };
    const spread = ({ y, weight }) => 2 * Math.sqrt((Math.max(y, 1 / weight) * (1 - Math.min(y, 1 - 1e-9))) / weight);
    const above = this.points.flatMap(({ x, y }) => [x, y]).filter((value) => value > 0);
    const low = Math.log(Math.min(...above) / 1.5);
    const high = Math.log(Math.min(1, Math.max(...above) * 1.5));
    const share = (value) => Math.max(0, Math.min(1, (Math.log(Math.max(value, 1e-12)) - low) / (high - low)));
    const x = (value) => MARGIN.left + share(value) * inner.w;
    const y = (value) => MARGIN.top + (1 - share(value)) * inner.h;
    const base = MARGIN.top + inner.h;
    const label = (value) => `${Number((value * 100).toPrecision(2))} %`;
    const marks = [-4, -3, -2, -1, 0].flatMap((power) => [1, 2, 5].map((m) => m * 10 ** power)).filter((value) => Math.log(value) >= low && Math.log(value) <= high);
    const every = marks.length > 7 ? marks.filter((value) => /^1/.test(value.toExponential())) : marks;
    const parts = [];
    for (const value of every) {
      const at = Math.round(y(value)) + 0.5;
      parts.push(drawn('line', { class: 'rule', x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }));
      parts.push(drawn('text', { class: 'tick', x: MARGIN.left - 7, y: at + 4, 'text-anchor': 'end', text: label(value) }));
      parts.push(drawn('line', { class: 'axis', x1: x(value), x2: x(value), y1: base, y2: base + 4 }));
      parts.push(drawn('text', { class: 'tick', x: x(value), y: base + 16, 'text-anchor': 'middle', text: label(value) }));
    }
    parts.push(drawn('text', { class: 'tick', x: MARGIN.left + inner.w / 2, y: height - 2, 'text-anchor': 'middle', text: 'predicted' }));
    parts.push(drawn('text', { class: 'tick', x: MARGIN.left + 6, y: MARGIN.top + 10, text: 'clicked' }));
    parts.push(drawn('line', { class: 'axis', x1: MARGIN.left, x2: width - MARGIN.right, y1: base + 0.5, y2: base + 0.5 }));
    parts.push(drawn('line', { class: 'curve s-grey dashed', x1: MARGIN.left, y1: base, x2: width - MARGIN.right, y2: MARGIN.top }));
    this.points.forEach((point, i) => {
      Object.assign(point, { px: x(point.x), py: y(point.y) });
      const half = spread(point);
      parts.push(drawn('line', { class: 's-one whisker', x1: point.px, x2: point.px, y1: y(point.y - half), y2: y(Math.min(1, point.y + half)) }));
      parts.push(drawn('circle', { class: `dot f-${i === this.at ? 'two' : 'one'}`, cx: point.px, cy: point.py, r: i === this.at ? 5.5 : 4 }));
    });
    this.svg.setAttribute('width', width);
    this.svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...parts);
    const words = ({ x: p, y: rate, weight }) => `predicted ${format.percent(p)}, clicked ${format.percent(rate)} of ${format.count(Math.round(weight))}`;
    this.said.textContent = this.at !== null && this.points[this.at] ? words(this.points[this.at]) : 'dashed: perfect; bars: two standard errors';
    this.summary.textContent = this.points.map(words).join('; ');
  }
}

// Rows of {name, value, share, colour}: a bar each, from 0 to 1.
export function bars(host, rows) {
  const fit = host.children.length === rows.length && [...host.children].every((child, i) => child.dataset.name === rows[i].name);
  if (!fit) {
    host.replaceChildren(...rows.map(({ name, colour }) => {
      const made = element('li', {},
        element('span', { class: 'name', text: name }),
        element('span', { class: 'track', 'aria-hidden': 'true' }, element('span', { class: `bar b-${colour}` })),
        element('b'));
      made.dataset.name = name;
      return made;
    }));
  }
  rows.forEach(({ value, share }, i) => {
    host.children[i].querySelector('.bar').style.width = `${(100 * Math.max(0, Math.min(1, share || 0))).toFixed(1)}%`;
    host.children[i].querySelector('b').textContent = value;
  });
}

// Rows of {name, note, term}: to the left of a middle line what lowers, to the right what raises.
export function diverging(rows, show) {
  const longest = Math.max(...rows.map(({ term }) => Math.abs(term)), 1e-12);
  return rows.map(({ name, note, term, strong }) => {
    const size = (50 * Math.abs(term)) / longest;
    const bar = element('span', { class: `bar ${term < 0 ? 'b-lower' : 'b-raise'}` });
    bar.style.width = `${size.toFixed(2)}%`;
    bar.style.left = `${(term < 0 ? 50 - size : 50).toFixed(2)}%`;
    const label = element('th', { scope: 'row', class: strong ? 'strong' : null }, element('span', { class: 'words', text: name }));
    if (note) label.append(element('span', { class: 'note', text: note }));
    return element('tr', {}, label,
      element('td', { class: 'terms', 'aria-hidden': 'true' }, element('span', { class: 'track' }, bar)),
      element('td', { class: 'term', text: show(term) }));
  });
}

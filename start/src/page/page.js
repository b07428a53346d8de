'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const paths = data.paths, $ = id => document.getElementById(id);
const SMALLEST = 500, SLIVER = 12, HEAD = 18, HUES = [212, 150, 28, 328, 48, 262, 182, 0, 96, 300];
const STATES = { new: ['New', 140], updated: ['Updated', 40], rebuilt: ['Built again', 262], same: ['As before', null] };
const bytes = count => {
  if (count < 1000) return `${count} bytes`;
  let unit = -1;
  do { count /= 1000; unit += 1; } while (count >= 999.95 && unit < 3);
  return `${count.toFixed(1)} ${['kB', 'MB', 'GB', 'TB'][unit]}`;
};
const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
const sum = items => items.reduce((all, item) => all + item.size, 0);
const bySize = (one, other) => other.size - one.size;

paths.forEach((path, index) => {
  path.index = index;
  path.users = [];
  path.name = path.path.slice(path.path.indexOf('-') + 1);
});
paths.forEach(path => path.refs.forEach(ref => paths[ref].users.push(path)));
// A group is what comes into the closure by one store path: by one that a deployed path refers to itself, or,
// where that is most of the closure, by one further down.
const weight = paths.map(() => 0), groups = new Map();
paths.forEach(path => path.chain.forEach(index => { weight[index] += path.size; }));
paths.forEach(path => {
  let depth = Math.min(1, path.chain.length - 1);
  while (depth + 1 < path.chain.length && weight[path.chain[depth]] > 0.5 * sum(paths)) depth += 1;
  const key = path.chain[depth];
  if (!groups.has(key)) groups.set(key, { key, name: paths[key].name, items: [] });
  groups.get(key).items.push(path);
  path.group = groups.get(key);
});
const ranked = [...groups.values()].map(group => Object.assign(group, { size: sum(group.items) })).sort(bySize);
ranked.forEach((group, rank) => { group.hue = HUES[rank]; });

// M. Bruls, K. Huizing, J. van Wijk: Squarified Treemaps (2000). Items are the largest first.
const squarify = (items, area, place) => {
  let { x, y, width, height } = area, rest = items, total = sum(items);
  while (rest.length > 0 && total > 0) {
    const scale = width * height / total, side = Math.min(width, height);
    const worst = count => {
      const row = rest.slice(0, count), depth = sum(row) * scale / side;
      return Math.max(...row.map(({ size }) => {
        const length = size * scale / depth;
        return Math.max(length / depth, depth / length);
      }));
    };
    let count = 1;
    while (count < rest.length && worst(count + 1) <= worst(count)) count += 1;
    const row = rest.slice(0, count), size = sum(row), depth = size * scale / side;
    let at = 0;
    row.forEach(item => {
      const length = item.size * scale / depth;
      place(item, width >= height ? { x, y: y + at, width: depth, height: length } : { x: x + at, y, width: length, height: depth });
      at += length;
    });
    if (width >= height) { x += depth; width -= depth; } else { y += depth; height -= depth; }
    rest = rest.slice(count);
    total -= size;
  }
};
// The same, with what would be too narrow to be hit made wider.
const arrange = (items, area) => {
  const sized = items.map(item => ({ item, size: item.size }));
  for (let turn = 0; ; turn += 1) {
    const placed = [];
    squarify([...sized].sort(bySize), area, (entry, at) => placed.push([entry, at]));
    const slivers = placed.filter(([, at]) => Math.min(at.width, at.height) < SLIVER);
    if (slivers.length === 0 || turn === 12) return placed.map(([{ item }, at]) => [item, at]);
    slivers.forEach(([entry]) => { entry.size *= 1.5; });
  }
};

const map = $('map');
let views = [{ title: 'All', items: paths }], chosen = null, boxes = [];
const put = (node, { x, y, width, height }, gap = 0) => {
  const set = { left: x, top: y, width: Math.max(0, width - gap), height: Math.max(0, height - gap) };
  Object.entries(set).forEach(([name, value]) => { node.style[name] = `${value.toFixed(1)}px`; });
  map.append(node);
  return node;
};
const colour = (box, path) => {
  const hue = $('colour').value === 'change' ? STATES[path.state][1] : path.group.hue;
  if (hue === null || hue === undefined) box.classList.add('grey');
  else box.style.setProperty('--hue', hue);
};
const button = (text, size, area, act) => {
  const box = put(element('button', { tabIndex: -1, title: `${text}, ${bytes(size)}`, onclick: act }), area, 1);
  box.setAttribute('aria-label', box.title);
  const letters = Math.floor((area.width - 8) / 6.9), lines = Math.ceil(text.length / letters) + (text.length > letters ? 0.5 : 0);
  const fits = letters > 3 && lines * 14.5 + 4 <= area.height;
  if (fits || (letters > 5 && area.height > 17)) box.append(element('span', { className: fits ? '' : 'cut' }, text));
  if (fits && letters > 8 && (lines + 1) * 14.5 + 6 <= area.height) box.append(element('small', {}, bytes(size)));
  boxes.push({ box, area });
  return box;
};
const drawPath = (path, at) => {
  if (path.pool) {
    const box = button(path.title, path.real, at, () => enter(path));
    box.classList.add('more');
    boxes.at(-1).pool = path.pool;
    return;
  }
  const box = button(path.name, path.size, at, () => choose(path.index));
  boxes.at(-1).path = path;
  colour(box, path);
};
// What would be too small to be hit goes into one box, which opens.
const pooled = (items, least, title) => {
  const large = items.filter(item => item.size >= least), small = items.filter(item => item.size < least);
  if (small.length < 2) return items.map(item => item.size >= least ? item : Object.assign(Object.create(item), { size: least }));
  const real = sum(small);
  return [...large, { title: `${small.length} small ${title}`, size: Math.max(real, least), real, pool: small, items: small.flatMap(item => item.items ?? item) }];
};
const draw = () => {
  const focus = map.contains(document.activeElement);
  map.replaceChildren();
  boxes = [];
  const { items, flat } = views.at(-1), all = { x: 0, y: 0, width: map.clientWidth, height: map.clientHeight };
  const shown = items.filter(item => item.size > 0);
  const least = sum(shown) * SMALLEST / (all.width * all.height);
  const layered = (inner, area) => {
    const layers = new Map();
    inner.forEach(path => layers.set(path.layer, [...layers.get(path.layer) ?? [], path]));
    const parts = [...layers].map(([layer, items]) => ({ layer, items, size: sum(items) }));
    const placed = arrange(parts, area).map(([part, at]) => ({ part, at, inside: arrange(part.items, at) }));
    const isNarrow = placed.some(({ inside }) => inside.some(([, at]) => Math.min(at.width, at.height) < SLIVER));
    if (isNarrow) { arrange(inner, area).forEach(([path, at]) => drawPath(path, at)); return; }
    placed.forEach(({ part, at, inside }) => {
      inside.forEach(([path, place]) => drawPath(path, place));
      if (part.layer !== undefined && part.items.length > 1) put(element('div', { className: 'layer' }), at, 1);
    });
  };
  if (flat) layered(pooled(shown, least, 'store paths'), all);
  else {
    const inView = new Map();
    shown.forEach(path => inView.set(path.group, [...inView.get(path.group) ?? [], path]));
    const parts = [...inView].map(([group, items]) => ({ group, items, size: sum(items) }));
    arrange(pooled(parts, least * 2, 'groups'), all).forEach(([part, at]) => {
      if (part.pool) { drawPath(part, at); return; }
      const inner = pooled(part.items, least, 'store paths'), headed = inner.length > 1 && at.width > 70 && at.height > 64;
      if (headed) {
        put(element('div', { className: 'group' }, `${part.group.name}, ${bytes(part.size)}`), { ...at, height: HEAD });
        at = { ...at, y: at.y + HEAD, height: at.height - HEAD };
      }
      layered(inner, at);
    });
  }
  const crumb = views.map((view, depth) => depth + 1 === views.length ? element('span', {}, view.title)
    : element('button', { onclick: () => { views = views.slice(0, depth + 1); draw(); } }, view.title));
  $('crumb').replaceChildren(...crumb.flatMap((part, depth) => depth === 0 ? [part] : [' › ', part]));
  mark();
  if (boxes.length > 0 && !boxes.some(({ box }) => box.tabIndex === 0)) boxes[0].box.tabIndex = 0;
  if (focus) boxes.find(({ box }) => box.tabIndex === 0)?.box.focus();
};
const enter = pool => {
  views.push({ title: pool.title, items: pool.items, flat: pool.items === pool.pool });
  draw();
};
const matches = path => path.path.toLowerCase().includes($('search').value.trim().toLowerCase());
const mark = () => {
  const layer = chosen === null ? undefined : paths[chosen].layer;
  const holds = entry => entry.path ? [entry.path] : entry.pool.flatMap(item => item.items ?? item);
  boxes.forEach(entry => {
    const { box } = entry, on = holds(entry).some(path => path.index === chosen);
    box.classList.toggle('dim', !holds(entry).some(matches));
    box.classList.toggle('on', on);
    box.classList.toggle('kin', !on && layer !== undefined && entry.path?.layer === layer);
    if (chosen !== null) box.tabIndex = on ? 0 : -1;
  });
  const rows = [...$('rows').children];
  rows.forEach(row => {
    row.hidden = !matches(paths[row.dataset.path]);
    row.classList.toggle('on', Number(row.dataset.path) === chosen);
  });
  const found = rows.filter(row => !row.hidden).map(row => paths[row.dataset.path]);
  $('found').textContent = found.length === paths.length ? '' : `${found.length} of ${paths.length}, ${bytes(sum(found))}`;
};
const link = index => element('button', { onclick: () => choose(index) }, paths[index].name);
const links = indices => {
  const first = indices.slice(0, 12).flatMap((index, at) => at === 0 ? [link(index)] : [', ', link(index)]);
  return indices.length > 12 ? [...first, ` and ${indices.length - 12} more`] : first;
};
const choose = index => {
  chosen = index;
  const path = paths[index], fact = (name, ...value) => [element('dt', {}, name), element('dd', {}, ...value)];
  const chain = path.chain.flatMap((at, depth) => depth === 0 ? [link(at)] : [' → ', link(at)]);
  $('detail').replaceChildren(element('h2', {}, path.name), element('dl', {},
    ...fact('Path', element('code', {}, `${data.store}/${path.path}`)),
    ...fact('Size', `${bytes(path.size)}, ${bytes(path.total)} with all that it needs`),
    ...fact('Here by', ...(chain.length > 1 ? chain : ['its own name: it is deployed'])),
    ...(path.layer === undefined ? [] : fact('Layer', path.layer, element('span', { className: 'soft' }, ' (the outlined boxes are in it as well)'))),
    ...(path.note ? fact('Kind', `${path.note}, rarely needed when programs run`) : []),
    ...(path.was ? fact('Before', path.was) : data.since && path.state !== 'same' ? fact('Before', STATES[path.state][0].toLowerCase()) : []),
    ...(path.users.length > 0 ? fact('Needed by', ...links(path.users.map(user => user.index))) : []),
    ...(path.refs.length > 0 ? fact('Needs', ...links(path.refs)) : [])));
  mark();
};

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
map.addEventListener('keydown', event => {
  const from = boxes.find(({ box }) => box === document.activeElement);
  if (event.key === 'Escape' && views.length > 1) { views.pop(); draw(); return; }
  if (!from || !ARROWS[event.key]) return;
  event.preventDefault();
  const [across, down] = ARROWS[event.key], middle = ({ x, y, width, height }) => [x + width / 2, y + height / 2];
  const [x, y] = middle(from.area);
  const distance = ({ area }) => {
    const [dx, dy] = [middle(area)[0] - x, middle(area)[1] - y], along = dx * across + dy * down;
    return along > 0.5 ? along + 2.5 * Math.abs(dx * down + dy * across) : Infinity;
  };
  const next = boxes.reduce((best, entry) => distance(entry) < distance(best) ? entry : best, from);
  if (next !== from) { from.box.tabIndex = -1; next.box.tabIndex = 0; next.box.focus(); if (next.path) choose(next.path.index); }
});
const order = { key: 'size', down: true };
const sortRows = () => {
  const sign = order.down ? -1 : 1;
  const sorted = [...paths].sort((one, other) => order.key === 'name'
    ? sign * one.name.localeCompare(other.name) : sign * (one[order.key] - other[order.key]));
  $('rows').replaceChildren(...sorted.map(path => {
    const row = element('tr', {}, element('td', {}, link(path.index)), element('td', {}, bytes(path.size)), element('td', {}, bytes(path.total)));
    row.dataset.path = path.index;
    return row;
  }));
  document.querySelectorAll('th button').forEach(head => {
    const is = head.dataset.key === order.key;
    head.parentElement.setAttribute('aria-sort', is ? (order.down ? 'descending' : 'ascending') : 'none');
    head.textContent = head.dataset.label + (is ? (order.down ? ' ↓' : ' ↑') : '');
  });
  mark();
};
document.querySelectorAll('th button').forEach(head => {
  head.onclick = () => {
    order.down = order.key === head.dataset.key ? !order.down : head.dataset.key !== 'name';
    order.key = head.dataset.key;
    sortRows();
  };
});
const legend = () => {
  const entries = $('colour').value === 'change' ? Object.values(STATES)
    : [...ranked.slice(0, HUES.length).map(group => [`${group.name}, ${bytes(group.size)}`, group.hue]),
      ...(ranked.length > HUES.length ? [[ranked.length === HUES.length + 1 ? 'a smaller group' : `${ranked.length - HUES.length} smaller groups`, null]] : [])];
  $('legend').replaceChildren(...entries.map(([text, hue]) => {
    const swatch = element('i');
    swatch.style.background = hue === null ? 'var(--grey)' : `hsl(${hue} var(--sat) var(--lum))`;
    return element('li', {}, swatch, text);
  }));
};
const names = data.roots.map(root => paths[root].name).join(', ');
document.title = `${names}: what is in it`;
$('title').textContent = names;
$('sum').textContent = `${paths.length} store paths, ${bytes(sum(paths))}`;
if (data.since) {
  $('colouring').hidden = false;
  $('colour').value = 'change';
  $('since').hidden = false;
  $('changes').replaceChildren(...data.since.map(line => element('li', {}, line)));
}
$('search').oninput = mark;
$('colour').onchange = () => { legend(); draw(); };
new ResizeObserver(draw).observe(map);
legend();
sortRows();
draw();
choose(data.roots[0]);

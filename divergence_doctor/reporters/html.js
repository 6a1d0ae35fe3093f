// What the page can do more with scripting: sort, filter, scrub, copy, and tips that keyboards reach.
// Everything is there without it. Text is only ever set as text; nothing is fetched, nothing kept.
(() => {
  'use strict';
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, fields = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), fields);
    element.append(...children);
    return element;
  };

  // ------------------------------------------------------------------ sorting

  // Figures before words, what is not finite beyond every figure, what is not there always last.
  const NONE = '—';
  const valueOf = (text) => {
    const bare = text.trim().replaceAll(',', '').replace(/\s*%$/, '');
    if (bare === '' || text.trim() === NONE) return null;
    if (bare === 'NaN') return { figure: Infinity, rank: 1 };
    if (/^-?Inf$/.test(bare)) return { figure: bare[0] === '-' ? -Infinity : Infinity, rank: 0 };
    const figure = Number(bare);
    return Number.isNaN(figure) ? { word: text.trim().toLowerCase() } : { figure, rank: 0 };
  };
  const compare = (a, b) => {
    if (a.word !== undefined || b.word !== undefined) {
      if (a.word === undefined) return -1;
      if (b.word === undefined) return 1;
      return a.word.localeCompare(b.word, 'en', { numeric: true });
    }
    return a.figure === b.figure ? a.rank - b.rank : a.figure < b.figure ? -1 : 1;
  };
  const sortBy = (table, index, direction) => {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    rows.forEach((row, place) => { row.dataset.place ??= place; });
    const keyed = rows.map((row) => [valueOf(row.cells[index].textContent), Number(row.dataset.place), row]);
    keyed.sort(([a, placeA], [b, placeB]) => {
      if (direction === 'none') return placeA - placeB;
      if (a === null || b === null) return (a === null) - (b === null) || placeA - placeB;
      return (direction === 'ascending' ? compare(a, b) : compare(b, a)) || placeA - placeB;
    });
    body.append(...keyed.map(([, , row]) => row));
  };
  const NEXT = { number: { none: 'descending', descending: 'ascending', ascending: 'none' },
                 word: { none: 'ascending', ascending: 'descending', descending: 'none' } };
  for (const table of all('table.sort')) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, index) => {
      const button = make('button', { type: 'button', className: 'sorter' }, ...head.childNodes);
      if (head.title) { button.title = head.title; head.removeAttribute('title'); }
      head.replaceChildren(button);
      button.addEventListener('click', () => {
        const kind = head.classList.contains('n') ? 'number' : 'word';
        const direction = NEXT[kind][head.getAttribute('aria-sort') ?? 'none'];
        heads.forEach((other) => other.removeAttribute('aria-sort'));
        if (direction !== 'none') head.setAttribute('aria-sort', direction);
        sortBy(table, index, direction);
      });
    });
  }

  // ------------------------------------------------------------------ filtering

  const texts = new WeakMap();
  const textOf = (row) => {
    if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
    return texts.get(row);
  };
  for (const bar of all('[data-filters]')) {
    const what = bar.dataset.filters;
    const tables = all('table.filter', bar.parentElement);
    if (tables.length === 0) continue;
    const words = make('input', { type: 'search', autocomplete: 'off', spellcheck: false });
    const only = make('input', { type: 'checkbox' });
    const told = make('output', { className: 'soft' });
    const apply = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      let total = 0;
      for (const table of tables) {
        const counted = table.closest('details')?.open ?? true;
        for (const row of table.tBodies[0].rows) {
          const fits = (!only.checked || row.dataset.bad === '1') &&
            wanted.every((word) => textOf(row).includes(word));
          row.hidden = !fits;
          if (counted) { total += 1; shown += Number(fits); }
        }
      }
      told.textContent = `${shown.toLocaleString('en')} of ${total.toLocaleString('en')} ${what}`;
    };
    words.addEventListener('input', apply);
    only.addEventListener('change', apply);
    bar.addEventListener('refresh', apply);
    bar.append(make('label', {}, `Filter ${what} `, words),
               make('label', {}, only, ' only what is not finite'), told);
    bar.hidden = false;
    apply();
  }

  // ------------------------------------------------------------------ scrubbing through the steps

  for (const stepper of all('[data-steps]')) {
    const panels = all('details.step', stepper.parentElement);
    if (panels.length < 2) continue;
    const slider = make('input', { type: 'range', min: 0, max: panels.length - 1, step: 1 });
    const told = make('output', { className: 'told' });
    const filters = all('[data-filters]', stepper.parentElement);
    const show = () => {
      panels.forEach((panel, place) => {
        const here = place === Number(slider.value);
        panel.open = here;
        panel.hidden = !here;
      });
      const text = panels[Number(slider.value)].querySelector('summary').textContent.trim();
      told.textContent = text;
      slider.setAttribute('aria-valuetext', text);
      filters.forEach((bar) => bar.dispatchEvent(new Event('refresh')));
    };
    stepper.append(make('label', {}, 'Replayed step ', slider), told);
    stepper.hidden = false;
    stepper.parentElement.classList.add('scrubbed');
    slider.value = Math.max(panels.findIndex((panel) => panel.open), 0);
    slider.addEventListener('input', show);
    show();
  }

  // ------------------------------------------------------------------ copying

  const copied = async (text, source) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      return document.execCommand('copy');
    }
  };
  for (const block of all('pre.paste')) {
    const button = make('button', { type: 'button', className: 'copy' }, 'Copy');
    button.addEventListener('click', async () => {
      button.textContent = await copied(block.textContent, block) ? 'Copied' : 'Press Ctrl+C';
      setTimeout(() => { button.textContent = 'Copy'; }, 2000);
    });
    const frame = make('div', { className: 'pasted' });
    block.replaceWith(frame);
    frame.append(block, button);
  }

  // ------------------------------------------------------------------ tips

  const tip = make('div', { className: 'tip', id: 'tip', hidden: true });
  tip.setAttribute('role', 'tooltip');
  document.body.append(tip);
  const place = (x, y) => {
    tip.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = tip;
    const left = Math.min(Math.max(x - width / 2, 6), document.documentElement.clientWidth - width - 6);
    const above = y - height - 10;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : y + 24}px`;
  };
  let pinned = null;
  const hide = () => { tip.hidden = true; pinned = null; };
  for (const element of all('[title]')) {
    if (element.closest('svg')) continue;
    const text = element.title;
    element.removeAttribute('title');
    const show = () => {
      tip.textContent = text;
      const box = element.getBoundingClientRect();
      place(box.left + box.width / 2, box.top);
      pinned = show;
      element.setAttribute('aria-describedby', 'tip');
    };
    const leave = () => { hide(); element.removeAttribute('aria-describedby'); };
    element.addEventListener('mouseenter', show);
    element.addEventListener('focus', show);
    element.addEventListener('mouseleave', leave);
    element.addEventListener('blur', leave);
  }
  // Over the drawing of a step: the layer under the pointer, out of the table below it.
  for (const drawing of all('.profile')) {
    const rows = [...(drawing.closest('details').querySelector('table.filter')?.tBodies[0].rows ?? [])];
    if (rows.length === 0) continue;
    const ordered = rows.map((row) => [...row.cells].map((cell) => cell.textContent.trim()));
    drawing.addEventListener('mousemove', (event) => {
      const box = drawing.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      const cells = ordered[Math.min(Math.max(Math.floor(share * rows.length), 0), rows.length - 1)];
      tip.textContent = `${cells[0]}: activation ${cells[3]}, gradient ${cells[6]}`;
      place(event.clientX, box.top);
    });
    drawing.addEventListener('mouseleave', hide);
  }
  addEventListener('keydown', (event) => { if (event.key === 'Escape') hide(); });
  // What is focused is scrolled into view: its tip goes along.
  addEventListener('scroll', () => (pinned ?? hide)(), { passive: true, capture: true });

  // ------------------------------------------------------------------ paper

  // What is folded away on the screen is printed; of the steps the one that is shown.
  let folded = [];
  addEventListener('beforeprint', () => {
    folded = all('details:not(.step):not([open])');
    folded.forEach((details) => { details.open = true; });
  });
  addEventListener('afterprint', () => {
    folded.forEach((details) => { details.open = false; });
    folded = [];
  });
})();

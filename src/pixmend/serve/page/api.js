// The HTTP back end of the page. Every problem becomes an Error with its sentence as message.

const token = new URLSearchParams(location.hash.slice(1)).get('token');
if (token) {
  sessionStorage.setItem('token', token);
  history.replaceState(null, '', location.pathname);  // keeps the token out of bookmarks and shared links
}

const LABELS = { candidates: 'Answers', seconds: 'Time budget', mask_spec: 'Mask' };  // of fields, in the page

async function call(path, options = {}) {
  const token = sessionStorage.getItem('token');
  const headers = { Accept: 'application/json', ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The server cannot be reached. Is it still running?');
  }
  if (!answer.ok) {
    let problem = {};
    try { problem = await answer.json(); } catch { /* not this server's JSON */ }
    throw Object.assign(wordsOf(problem, answer.status), { status: answer.status, after: Number(answer.headers.get('Retry-After')) });
  }
  return answer;
}

function wordsOf({ detail, errors = [] }, status) {
  const words = detail ?? `The server answered ${status}. Try again, or see its log.`;
  return new Error(errors.reduce((text, { field }) => text.replace(new RegExp(`\\b${field}:`, 'i'), `${LABELS[field] ?? field}:`), words));
}

const json = async (path, options) => (await call(path, options)).json();
const blob = async (path) => (await call(path, { headers: { Accept: '*/*' } })).blob();

export const models = () => json('v1/models');
export const example = (model, number) => blob(`v1/models/${model}/examples/${number}`);
export const samples = (model) => blob(`v1/models/${model}/samples`);
export const shape = (spec, width, height, seed) => blob(`v1/masks/${encodeURIComponent(spec)}?width=${width}&height=${height}&seed=${seed}`);

function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) data.append(name, value, value.name ?? `${name}.png`);
    else if (value !== null && value !== undefined && value !== '') data.append(name, String(value));
  }
  return data;
}

// With onStart({ steps, stop }) and onStep(step or snapshot), the search is streamed; stop() ends it with the best answer so far.
export async function complete(fields, { signal, onStart, onStep }) {
  const request = { method: 'POST', body: form(fields), signal };
  if (!onStep) return json('v1/completions', request);
  let outcome = null;
  await events(await call('v1/completions/stream', { ...request, headers: { Accept: 'text/event-stream' } }), (name, data) => {
    if (name === 'accepted') onStart({ steps: data.steps, stop: () => json(`v1/completions/${encodeURIComponent(data.id)}/cancel`, { method: 'POST' }) });
    if (name === 'step' || name === 'snapshot') onStep({ ...data, isSnapshot: name === 'snapshot' });
    if (name === 'error') throw wordsOf(data);
    if (name === 'done') outcome = data;
  });
  if (!outcome) throw new Error('The connection was lost. Try again.');
  return outcome;
}

// Calls onEvent(event, data) for each server-sent event until the stream ends.
async function events(answer, onEvent) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split('\n\n');
    rest = parts.pop();
    for (const part of parts) {
      const name = /^event: (.*)$/m.exec(part);
      const data = /^data: (.*)$/m.exec(part);
      if (name && data) onEvent(name[1], JSON.parse(data[1]));
    }
  }
}

// The server's API. Every refusal becomes an Error whose message is a sentence.

const kept = new URLSearchParams(location.hash.slice(1)).get('token');
if (kept) {
  sessionStorage.setItem('token', kept);
  history.replaceState(null, '', location.pathname);  // it stays out of bookmarks and shared links
}

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
    let words = `The server answered ${answer.status}. Try again, or look at its log.`;
    try { words = (await answer.json()).detail ?? words; } catch { /* not ours */ }
    throw Object.assign(new Error(words), { status: answer.status, after: Number(answer.headers.get('Retry-After')) });
  }
  return answer;
}

export const json = async (path, options) => (await call(path, options)).json();
export const blob = async (path, options) => (await call(path, { ...options, headers: { Accept: '*/*' } })).blob();

export function form(fields) {
  const made = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) made.append(name, value, value.name ?? `${name}.png`);
    else if (value !== null && value !== undefined && value !== '') made.append(name, String(value));
  }
  return made;
}

export const complete = (fields, signal) => json('/v1/completions', { method: 'POST', body: form(fields), signal });

// Calls hear(event, data) for each event until the stream ends.
export async function watch(fields, hear, signal) {
  const answer = await call('/v1/completions/stream', { method: 'POST', body: form(fields), signal, headers: { Accept: 'text/event-stream' } });
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
      if (name && data) hear(name[1], JSON.parse(data[1]));
    }
  }
}

export const cancel = (id) => json(`/v1/completions/${encodeURIComponent(id)}/cancel`, { method: 'POST' });

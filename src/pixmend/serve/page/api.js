// The server's API. Every problem becomes an Error with its sentence as message.

const token = new URLSearchParams(location.hash.slice(1)).get('token');
if (token) {
  sessionStorage.setItem('token', token);
  history.replaceState(null, '', location.pathname);  // keeps the token out of bookmarks and shared links
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
    let message = `The server answered ${answer.status}. Try again, or see its log.`;
    try { message = (await answer.json()).detail ?? message; } catch { /* not this server's JSON */ }
    throw Object.assign(new Error(message), { status: answer.status, after: Number(answer.headers.get('Retry-After')) });
  }
  return answer;
}

export const json = async (path, options) => (await call(path, options)).json();
export const blob = async (path, options) => (await call(path, { ...options, headers: { Accept: '*/*' } })).blob();

export function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) data.append(name, value, value.name ?? `${name}.png`);
    else if (value !== null && value !== undefined && value !== '') data.append(name, String(value));
  }
  return data;
}

export const complete = (fields, signal) => json('v1/completions', { method: 'POST', body: form(fields), signal });

// Calls onEvent(event, data) for each event until the stream ends.
export async function watch(fields, onEvent, signal) {
  const answer = await call('v1/completions/stream', { method: 'POST', body: form(fields), signal, headers: { Accept: 'text/event-stream' } });
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

export const cancel = (id) => json(`v1/completions/${encodeURIComponent(id)}/cancel`, { method: 'POST' });

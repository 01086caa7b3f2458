// Shows the OpenAPI document as a page.

function element(tag, content, ...children) {
  const result = Object.assign(document.createElement(tag), content === null ? {} : { textContent: content });
  result.append(...children);
  return result;
}

// Focusable, so that wide code can be scrolled by keyboard.
const code = (text) => Object.assign(element('pre', text), { tabIndex: 0 });

function table(head, rows) {
  const row = (cells, tag) => element('tr', null, ...cells.map((cell) => (cell instanceof Node ? element(tag, null, cell) : element(tag, cell))));
  return element('table', null, element('thead', null, row(head, 'th')), element('tbody', null, ...rows.map((cells) => row(cells, 'td'))));
}

function kind(schema) {
  if (schema.anyOf) return schema.anyOf.map(kind).filter((each) => each !== 'null').join(' or ');
  if (schema.enum) return schema.enum.join(', ');
  return schema.format === 'binary' ? 'file' : schema.type ?? '';
}

function fields(operation) {
  const parts = (operation.parameters ?? []).map((each) => [element('code', each.name), kind(each.schema), each.required ? 'required' : String(each.schema.default ?? ''), each.in]);
  const schema = operation.requestBody?.content['multipart/form-data']?.schema;
  for (const [name, each] of Object.entries(schema?.properties ?? {})) {
    parts.push([element('code', name), kind(each), schema.required.includes(name) ? 'required' : String(each.default ?? ''), each.description ?? '']);
  }
  return parts;
}

function section(path, method, operation) {
  const result = element('section', null, element('h3', operation.description.replace(/\.$/, '')), element('p', null, element('code', `${method.toUpperCase()} ${path}`)));
  const rows = fields(operation);
  if (rows.length) result.append(table(['field', 'kind', 'default', 'meaning'], rows));
  const answers = Object.entries(operation.responses).map(([status, { description, content }]) => [status, Object.keys(content ?? {}).join(', '), description]);
  result.append(table(['status', 'type', 'when'], answers));
  const example = Object.values(operation.responses['200']?.content ?? {}).map((each) => each.example).find(Boolean);
  if (example) result.append(code(typeof example === 'string' ? example : JSON.stringify(example, null, 2)));
  return result;
}

document.querySelectorAll('pre').forEach((each) => { each.textContent = each.textContent.replaceAll('ORIGIN', new URL('.', location.href).href.slice(0, -1)); });
const openapi = await (await fetch('openapi.json')).json();
const groups = new Map();
for (const [path, methods] of Object.entries(openapi.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const tag = operation.tags?.[0] ?? 'other';
    groups.set(tag, [...(groups.get(tag) ?? []), section(path, method, operation)]);
  }
}
for (const [tag, sections] of groups) document.getElementById('operations').append(element('h2', tag), ...sections);

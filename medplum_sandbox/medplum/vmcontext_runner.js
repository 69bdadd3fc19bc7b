// Runs the code of one vmcontext Bot: a job as JSON on stdin, its result as JSON on stdout.
//
// The bot sees what Medplum's vm context shows it: no setTimeout, Buffer, process, crypto or AbortController as globals.
// https://www.medplum.com/docs/bots/vm-context-bots
'use strict';
const fs = require('node:fs');
const util = require('node:util');
const vm = require('node:vm');

const job = JSON.parse(fs.readFileSync(0, 'utf8'));
const lines = [];

function log(...values) {
  lines.push(util.format(...values));
}

class OperationOutcomeError extends Error {
  constructor(outcome) {
    super(outcome?.issue?.[0]?.details?.text ?? 'Unknown error');
    this.outcome = outcome;
  }
}

class MedplumClient {
  getBaseUrl() {
    return job.baseUrl;
  }
  getAccessToken() {
    return job.accessToken;
  }
  fhirUrl(...path) {
    return new URL(job.baseUrl + ['fhir/R4', ...path].join('/'));
  }
  async request(method, path, body) {
    const response = await fetch(job.baseUrl + 'fhir/R4/' + path, {
      method,
      headers: {
        authorization: 'Bearer ' + job.accessToken,
        accept: 'application/fhir+json, */*; q=0.1',
        'content-type': 'application/fhir+json',
        'x-medplum': 'extended',
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await response.text();
    const answer = text ? JSON.parse(text) : undefined;
    if (!response.ok) {
      throw new OperationOutcomeError(answer);
    }
    return answer;
  }
  readResource(type, id) {
    return this.request('GET', `${type}/${id}`);
  }
  readReference(reference) {
    return this.request('GET', reference.reference);
  }
  search(type, query) {
    const found = new URLSearchParams(query ?? '').toString();
    return this.request('GET', found ? `${type}?${found}` : type);
  }
  async searchResources(type, query) {
    return ((await this.search(type, query)).entry ?? []).map((entry) => entry.resource);
  }
  async searchOne(type, query) {
    const parameters = new URLSearchParams(query ?? '');
    parameters.set('_count', '1');
    return (await this.searchResources(type, parameters))[0];
  }
  createResource(resource) {
    return this.request('POST', resource.resourceType, resource);
  }
  updateResource(resource) {
    return this.request('PUT', `${resource.resourceType}/${resource.id}`, resource);
  }
  patchResource(type, id, operations) {
    return this.request('PATCH', `${type}/${id}`, operations);
  }
  deleteResource(type, id) {
    return this.request('DELETE', `${type}/${id}`);
  }
  executeBatch(bundle) {
    return this.request('POST', '', bundle);
  }
}

// The part of Medplum's Hl7Message that bots use most: segments by name, fields by number, and the text again.
class Hl7Field {
  constructor(text) {
    this.text = text;
  }
  getComponent(component, subcomponent, repetition = 0) {
    const value = this.text.split('~')[repetition]?.split('^')[component - 1] ?? '';
    return subcomponent === undefined ? value : (value.split('&')[subcomponent] ?? '');
  }
  toString() {
    return this.text;
  }
}

class Hl7Segment {
  constructor(text) {
    this.fields = text.split('|').map((field) => new Hl7Field(field));
    this.name = this.fields[0].text;
  }
  getField(index) {
    return this.name === 'MSH' ? (index === 1 ? new Hl7Field('|') : this.fields[index - 1]) : this.fields[index];
  }
  toString() {
    return this.fields.join('|');
  }
}

class Hl7Message {
  constructor(segments) {
    this.segments = segments;
  }
  static parse(text) {
    return new Hl7Message(text.split(/[\r\n]+/).map((line) => new Hl7Segment(line)));
  }
  getSegment(name) {
    return typeof name === 'number' ? this.segments[name] : this.segments.find((one) => one.name === name);
  }
  getAllSegments(name) {
    return this.segments.filter((one) => one.name === name);
  }
  toString() {
    return this.segments.join('\r');
  }
}

const ContentType = {
  CSS: 'text/css',
  FHIR_JSON: 'application/fhir+json',
  FORM_URL_ENCODED: 'application/x-www-form-urlencoded',
  HL7_V2: 'x-application/hl7-v2+er7',
  HTML: 'text/html',
  JAVASCRIPT: 'text/javascript',
  JSON: 'application/json',
  JSON_PATCH: 'application/json-patch+json',
  TEXT: 'text/plain',
};

if (job.event.contentType === ContentType.HL7_V2 && typeof job.event.input === 'string' && job.parsesHl7) {
  job.event.input = Hl7Message.parse(job.event.input);
}

function finish(result) {
  fs.writeSync(1, JSON.stringify({ ...result, logResult: lines.join('\n') }));
  process.exit(0);
}

function errorText(error) {
  if (!error || typeof error === 'string') {
    return error || 'Unknown error';
  }
  return error.message ?? JSON.stringify(error);
}

function failure(error) {
  const known = error instanceof OperationOutcomeError ? error.outcome : undefined;
  const outcome = error?.resourceType === 'OperationOutcome' ? error : known;
  finish(outcome ? { success: false, outcome } : { success: false, message: errorText(error) });
}

const context = vm.createContext({
  console: { log, info: log, warn: log, error: log, debug: log, trace: log },
  fetch,
  require,
  ContentType,
  Hl7Message,
  MedplumClient,
  OperationOutcomeError,
  TextEncoder,
  URL,
  URLSearchParams,
  medplum: new MedplumClient(),
  event: job.event,
});

// As in the real wrapper an expression follows the code: a function expression without its semicolon is called with it.
const wrapped = `const exports = {}; const module = { exports };
${job.code}
(async () => (exports.handler ?? module.exports.handler)(medplum, event))();`;

// A promise that the bot did not wait for must not end the run.
process.on('unhandledRejection', log);

let script;
try {
  script = new vm.Script(wrapped, { filename: 'index.js' });
} catch (error) {
  failure(error);
}
try {
  const running = script.runInContext(context, { timeout: job.timeout });
  running.then(
    (value) => finish({ success: true, returnValue: value instanceof Hl7Message ? String(value) : value }),
    failure
  );
} catch (error) {
  if (error?.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') {
    failure(error);
  }
  finish({ success: false, crashed: true });
}

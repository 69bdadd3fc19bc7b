// Stands in for a Python bot on a server that can't reach the host itself: sends Medplum's event to the host, returns
// its answer. Runs in vmcontext and in awslambda; deploy_bots.py --runtime relay puts the line with BOT_NAME before it.
//
// Project secrets: BOT_RELAY_URL (https://host.example.org) and BOT_RELAY_KEY (the key that the host has as well).
// Settings that the host has in its own environment need not stand in the project's secrets, and then do not travel.
const { createHmac, randomBytes } = require('node:crypto');

exports.handler = async (medplum, event) => {
  const secret = (name) => event.secrets && event.secrets[name] && event.secrets[name].valueString;
  const base = secret('BOT_RELAY_URL');
  const key = secret('BOT_RELAY_KEY');
  if (!base || !key) {
    throw outcome('required', 'missing-settings', 'Set the project secrets BOT_RELAY_URL and BOT_RELAY_KEY.');
  }
  if (!/^https:\/\//.test(base) && !/^http:\/\/(127\.0\.0\.1|localhost|\[::1\])(:|\/|$)/.test(base)) {
    throw outcome('required', 'unsafe-address', 'BOT_RELAY_URL must be an https:// address.');
  }
  const { BOT_RELAY_KEY, BOT_RELAY_URL, ...secrets } = event.secrets;
  const headers = {};
  for (const [name, value] of Object.entries(event.headers || {})) {
    // The length tells the host whether this server kept a call's parameters back (bot_layer/bot/delivery.py).
    if (/^(x-medplum-.*|x-trace-id|traceparent|content-(type|length|encoding)|transfer-encoding)$/i.test(name)) {
      headers[name] = value;
    }
  }
  const body = JSON.stringify({
    bot: event.bot,
    baseUrl: medplum.getBaseUrl(),
    accessToken: medplum.getAccessToken(),
    requester: event.requester,
    // Medplum's runtimes parse HL7 before a bot sees it; the host is to get the message's text.
    input: /^x-application\/hl7-v2/.test(event.contentType || '') ? String(event.input) : event.input,
    contentType: event.contentType,
    secrets,
    traceId: event.traceId,
    headers,
  });
  const at = Math.floor(Date.now() / 1000);
  const nonce = randomBytes(12).toString('hex');
  const mac = createHmac('sha256', key).update(`${at}.${nonce}.${BOT_NAME}.`).update(body, 'utf8').digest('hex');
  let response;
  let answer;
  try {
    response = await fetch(`${base.replace(/\/+$/, '')}/relay/${BOT_NAME}`, {
      method: 'POST',
      redirect: 'error',
      headers: { 'Content-Type': 'application/json', 'X-Bot-Signature': `t=${at},n=${nonce},v1=${mac}` },
      body,
    });
    answer = await response.json();
  } catch (fault) {
    console.log('The host did not answer: ' + (fault && fault.name));
    throw outcome('transient', 'host-unreachable', 'The host of this bot did not answer; try again later.');
  }
  if (answer.logResult) {
    console.log(answer.logResult);
  }
  if (response.status !== 200 || answer.success === false) {
    throw thrown(answer.returnValue);
  }
  return answer.returnValue;
};

// The outcome inside of the answer, because a thrown OperationOutcome reaches the caller as HTTP 400.
function thrown(value) {
  if (value && value.resourceType === 'OperationOutcome') {
    return value;
  }
  const parts = (value && value.parameter) || [];
  const found = parts.find((part) => part.name === 'outcome' && part.resource);
  return found ? found.resource : outcome('exception', 'error', 'The host of this bot refused the call.');
}

function outcome(code, ours, text) {
  const system = 'https://medplum.com/integrations/python-bots/outcome-code';
  const details = { coding: [{ system, code: ours }], text };
  return { resourceType: 'OperationOutcome', issue: [{ severity: 'error', code, details }] };
}

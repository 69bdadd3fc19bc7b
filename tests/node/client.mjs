// Drives a Medplum server with Medplum's own JavaScript client and tells what it saw as one JSON object.
import { MedplumClient } from '@medplum/core';

const [baseUrl, clientId, clientSecret, botId] = process.argv.slice(2);
const medplum = new MedplumClient({ baseUrl, fetch, cacheTime: 0 });
const seen = {};

const profile = await medplum.startClientLogin(clientId, clientSecret);
seen.signedInAs = profile.resourceType;

const created = await medplum.createResource({
  resourceType: 'Patient',
  identifier: [{ system: 'https://example.org/id', value: 'p-0' }],
  name: [{ family: 'Sample', given: ['Pat'] }],
});
const again = await medplum.createResourceIfNoneExist(created, 'identifier=https://example.org/id|p-0');
seen.createdOnce = again.id === created.id;
const updated = await medplum.updateResource({ ...created, active: true });
seen.newVersion = updated.meta.versionId !== created.meta.versionId;
const patched = await medplum.patchResource('Patient', created.id, [{ op: 'replace', path: '/active', value: false }]);
seen.patched = patched.active;
seen.history = (await medplum.readHistory('Patient', created.id)).entry.length;

const batch = await medplum.executeBatch({
  resourceType: 'Bundle',
  type: 'batch',
  entry: [1, 2, 3, 4].map((number) => ({
    request: { method: 'POST', url: 'Patient' },
    resource: { resourceType: 'Patient', identifier: [{ system: 'https://example.org/id', value: `p-${number}` }] },
  })),
});
seen.batch = batch.entry.map((entry) => entry.response.status);

seen.pages = [];
for await (const page of medplum.searchResourcePages('Patient', '_count=2')) {
  seen.pages.push(page.length);
}
seen.bot = await medplum.executeBot(botId, { hello: 'world' }, 'application/json');
try {
  await medplum.readResource('Patient', '00000000-0000-4000-8000-000000000000');
} catch (error) {
  seen.notFound = error.outcome.issue[0].code;
}
await medplum.deleteResource('Patient', created.id);
console.log(JSON.stringify(seen));

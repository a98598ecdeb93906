// @atproto/oauth-client-node against our PDS: a public and a confidential app are let in by a person, who answers on our pages as a
// browser would, and the apps do what they were granted and nothing else.
import assert from 'node:assert/strict'
import http from 'node:http'
import { Agent, AtpAgent } from '@atproto/api'
import { JoseKey, NodeOAuthClient, OAuthCallbackError, OAuthResponseError } from '@atproto/oauth-client-node'
import { city, step } from './city.mjs'
import { Browser } from './browser.mjs'

const handle = 'marisol.test'
const password = 'marisol-password-1'
const note = 'org.example.note'
const other = 'org.example.other'
const create = `repo:${note}?action=create`
const pictures = 'blob:image/*'
const residents = 'include:org.city-sync.authResident'
const scope = `atproto ${create} ${pictures} ${residents}`
const png = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==', 'base64')

const did = await step('an account', async () => {
  const agent = new AtpAgent({ service: city.pds })
  const authorization = `Basic ${Buffer.from(`admin:${city.adminPassword}`).toString('base64')}`
  const invite = await agent.com.atproto.server.createInviteCode({ useCount: 1 }, { headers: { authorization }, encoding: 'application/json' })
  await agent.createAccount({ handle, password, inviteCode: invite.data.code })
  return agent.session.did
})

// The host at which the confidential app's metadata stands, and to which both are redirected.
const metadata = {}
const host = http.createServer((req, res) => {
  res.writeHead(req.url === '/client.json' ? 200 : 404, { 'content-type': 'application/json' })
  res.end(JSON.stringify(metadata))
})
await new Promise((ready) => host.listen(0, '127.0.0.1', ready))
const origin = `http://127.0.0.1:${host.address().port}`

const memory = () => {
  const m = new Map()
  return { m, get: async (k) => m.get(k), set: async (k, v) => void m.set(k, v), del: async (k) => void m.delete(k) }
}

function app(clientMetadata, keyset) {
  const sessions = memory()
  const client = new NodeOAuthClient({
    clientMetadata,
    keyset,
    stateStore: memory(),
    sessionStore: sessions,
    handleResolver: city.pds,
    plcDirectoryUrl: city.plc,
    allowHttp: true,
    fetch: globalThis.fetch, // the default refuses loopback addresses
    requestLock: (_name, fn) => fn(),
  })
  return Object.assign(client, { saved: (sub) => sessions.m.get(sub) })
}

const query = new URLSearchParams([['redirect_uri', `${origin}/cb`], ['scope', scope]])
const program = app({
  client_id: `http://localhost?${query}`,
  redirect_uris: [`${origin}/cb`],
  scope,
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  application_type: 'native',
  token_endpoint_auth_method: 'none',
  dpop_bound_access_tokens: true,
})

const key = await JoseKey.generate(['ES256'], 'k1')
const backend = app(
  {
    client_id: 'https://app.example.com/client.json',
    client_name: 'Calendar',
    redirect_uris: ['https://app.example.com/cb'],
    scope,
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    application_type: 'web',
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: 'ES256',
    dpop_bound_access_tokens: true,
  },
  [key],
)
// The package takes no metadata on loopback, the PDS of a development city does: the app moves after the package has looked at it.
Object.assign(backend.clientMetadata, { client_id: `${origin}/client.json`, redirect_uris: [`${origin}/cb`] })
Object.assign(metadata, backend.clientMetadata, { jwks: { keys: [{ ...key.publicJwk, kid: 'k1' }] } })

// The person at the pages, who is signed in after the first time.
const browser = new Browser(city.pds)

async function answer(url, { untick = [], act = 'allow' } = {}) {
  let page = await browser.open(url)
  if (page.form('password')) page = await browser.send(page.form('password'), { identifier: handle, password })
  const form = page.form('request_uri')
  assert.ok(form, `the consent page is shown:\n${page.text}`)
  form.fields = form.fields.filter(([name, value]) => !(name === 'scope' && untick.includes(value)))
  const back = await browser.send(form, { do: act })
  assert.ok(back.leftFor?.startsWith(`${origin}/cb?`), `led back to the app, not ${back.leftFor}\n${back.text}`)
  return { page, params: new URL(back.leftFor).searchParams }
}

async function refusedCall(status, name, call) {
  const err = await call.then((res) => assert.fail(`expected ${name}, was taken: ${JSON.stringify(res.data)}`), (e) => e)
  assert.deepEqual([err.status, err.error], [status, name], err.message)
}

const record = (collection) => ({ repo: did, collection, record: { $type: collection, text: 'by an app', createdAt: new Date().toISOString() } })

await step('no page without a pushed request', async () => {
  const url = `${city.pds}/oauth/authorize?${new URLSearchParams({ client_id: program.clientMetadata.client_id, response_type: 'code', scope, redirect_uri: `${origin}/cb` })}`
  const page = await browser.open(url)
  assert.equal(page.status, 400)
  assert.equal(page.form('request_uri'), undefined)
})

const session = await step('a public app is let in', async () => {
  const url = await program.authorize(handle, { state: 'mine' })
  assert.deepEqual([...url.searchParams.keys()].sort(), ['client_id', 'request_uri'])
  const { page, params } = await answer(url)
  for (const word of [note, handle]) assert.ok(page.text.includes(word), `the page says ${word}:\n${page.text}`)
  const { session, state } = await program.callback(params)
  assert.equal(state, 'mine')
  assert.equal(session.did, did)
  const info = await session.getTokenInfo()
  assert.deepEqual(info.scope.split(' ').sort(), scope.split(' ').sort())
  return session
})

const agent = new Agent(session)

await step('it does what it was granted', async () => {
  const { data } = await agent.com.atproto.repo.createRecord(record(note))
  assert.ok(data.uri.startsWith(`at://${did}/${note}/`))
  const { data: up } = await agent.com.atproto.repo.uploadBlob(png, { encoding: 'image/png' })
  assert.equal(up.blob.mimeType, 'image/png')
  const declaration = { $type: 'org.city-sync.actor.declaration', cities: [city.city.did], createdAt: new Date().toISOString() }
  await agent.com.atproto.repo.createRecord({ repo: did, collection: declaration.$type, rkey: 'self', record: declaration }) // by the permission set
  const { data: self } = await agent.com.atproto.server.getSession()
  assert.equal(self.did, did)
  assert.equal(self.email, undefined)
})

await step('and nothing else', async () => {
  await refusedCall(403, 'InsufficientScope', agent.com.atproto.repo.createRecord(record(other)))
  const uri = (await agent.com.atproto.repo.listRecords({ repo: did, collection: note })).data.records[0].uri
  await refusedCall(403, 'InsufficientScope', agent.com.atproto.repo.deleteRecord({ repo: did, collection: note, rkey: uri.split('/').at(-1) }))
  await refusedCall(403, 'InsufficientScope', agent.com.atproto.repo.uploadBlob(new TextEncoder().encode('text'), { encoding: 'text/plain' }))
  await refusedCall(403, 'Forbidden', agent.com.atproto.repo.createRecord({ ...record(note), repo: city.city.did }))
})

await step('a retried refresh gives the same generation again', async () => {
  const before = program.saved(did).tokenSet
  await session.getTokenInfo(true)
  const after = program.saved(did).tokenSet
  assert.notEqual(after.refresh_token, before.refresh_token)
  const again = await session.server.refresh(before)
  assert.equal(again.refresh_token, after.refresh_token)
  await agent.com.atproto.repo.createRecord(record(note))
})

await step('a person grants less than was asked, or nothing', async () => {
  const fewer = await answer(await program.authorize(handle), { untick: [pictures, residents] })
  const { session } = await program.callback(fewer.params)
  assert.deepEqual((await session.getTokenInfo()).scope.split(' ').sort(), ['atproto', create])
  await refusedCall(403, 'InsufficientScope', new Agent(session).com.atproto.repo.uploadBlob(png, { encoding: 'image/png' }))

  const { params } = await answer(await program.authorize(handle), { act: 'deny' })
  const err = await program.callback(params).then(() => assert.fail('was let in'), (e) => e)
  assert.ok(err instanceof OAuthCallbackError, String(err))
  assert.equal(err.params.get('error'), 'access_denied')
})

await step('what was not declared is not asked', async () => {
  const err = await program.authorize(handle, { scope: `${scope} identity:*` }).then(() => assert.fail('was taken'), (e) => e)
  assert.ok(err instanceof OAuthResponseError, String(err))
  assert.equal(err.error, 'invalid_scope')
})

await step('a confidential app is let in, refreshes and signs out', async () => {
  const { page, params } = await answer(await backend.authorize(did))
  assert.ok(page.text.includes(new URL(origin).host), page.text)
  const { session } = await backend.callback(params)
  await new Agent(session).com.atproto.repo.createRecord(record(note))
  await session.getTokenInfo(true)
  const old = backend.saved(did).tokenSet
  await session.signOut()
  const err = await session.server.refresh(old).then(() => assert.fail('a revoked session was refreshed'), (e) => e)
  assert.equal(err.error, 'invalid_grant')
})

await step('a revoked session is over at once', async () => {
  const last = await program.restore(did)
  const kept = program.saved(did)
  await new Agent(last).com.atproto.server.getSession()
  await last.server.revoke(kept.tokenSet.access_token)
  const res = await last.fetchHandler('/xrpc/com.atproto.server.getSession', { method: 'GET' })
  assert.equal(res.status, 401)
  assert.match(res.headers.get('www-authenticate'), /^DPoP .*error="invalid_token"/)
})

console.error(`two apps of ${handle} were let in`)
host.close()

// The two official validators on our schemas, @atproto/lexicon and the stricter @atproto/lex-document,
// which also knows record keys and what blobs may be. Arguments: the ready file, the folder lexicons.
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { LexiconIterableIndexer, LexiconSchemaBuilder, lexiconDocumentSchema } from '@atproto/lex-document'
import { jsonToLex as strictJsonToLex } from '@atproto/lex-json'
import { Lexicons, jsonToLex, parseLexiconDoc } from '@atproto/lexicon'
import { city, step } from './city.mjs'

const folder = process.argv[3]

// The invalid examples that no schema can refuse; only our own validator does.
const beyondSchema = new Set([
  // the record key follows from the content
  'catalog.entryStatus/beside-another',
  'gov.decision/founding-with-proposal',
  'gov.decision/second-founding',
  'gov.resolution/other-key',
  'ledger.checkpoint/size-not-key',
  'ledger.cosignature/other-key',
  'ledger.epochReport/other-key',
  'ledger.receipt/key-of-another-entry',
  'offer.offeringStatus/beside-another',
  'offer.redemption/key-not-of-receipt',
  'registry.accreditation/key-of-another',
  'work.claim/free-key',
  'work.claim/key-of-another-shift',
  'work.proof/key-not-of-claim',
  'work.response/free-key',
  'work.review/second-of-one-subject',
  'work.taskStatus/beside-another',
  // one field against another
  'gov.parameterSet/epoch-twice',
  'gov.parameterSet/month-after-epoch',
  'gov.parameterSet/months-out-of-order',
  'gov.parameterSet/tier-twice',
  'ledger.receipt/burn-with-nullifier',
  'ledger.receipt/mint-without-nullifier',
  'offer.offering/window-over-midnight',
  'work.task/claims-close-first',
  'work.task/shift-backwards',
  'work.task/shift-twice',
  'work.verification/partial-without-minutes',
  'work.verification/rejection-in-public',
  'work.verification/rejection-pays',
  // formats that the schema language has no word for
  'actor.city/parameters-by-handle',
  'offer.offering/window-no-hour',
  'offer.redemption/no-such-day',
  'registry.accreditation/decision-by-handle',
  'registry.accreditation/decision-is-a-blob',
  'registry.accreditation/decision-without-key',
])

const read = (file, reviver) => JSON.parse(readFileSync(file, 'utf8'), reviver)
const under = (pattern) => globSync(pattern, { cwd: folder }).sort().map((file) => join(folder, file))
const examples = (kind) =>
  under(`testdata/${kind}/*/*.json`).map((file) => {
    const nsid = basename(dirname(file))
    return { nsid, at: `${nsid.replace('org.city-sync.', '')}/${basename(file, '.json')}`, ...read(file) }
  })

// lex-document takes no ref without a fragment, though every other tool does.
const whole = (ref) => (typeof ref !== 'string' || ref.includes('#') ? ref : `${ref}#main`)
const withMain = (key, value) => (key === 'ref' ? whole(value) : key === 'refs' ? value.map(whole) : value)

const lexicons = new Lexicons()
const documents = []
for (const file of under('{org,com,community}/**/*.json')) {
  await step(`schema ${file}`, () => {
    lexicons.add(parseLexiconDoc(read(file)))
    documents.push(lexiconDocumentSchema.parse(read(file, withMain)))
  })
}
const strict = await step('references between the schemas', () => LexiconSchemaBuilder.buildAll(new LexiconIterableIndexer(documents)))
const recordTypes = documents.map((d) => d.id).filter((id) => id.startsWith('org.city-sync.') && strict.get(`${id}#main`)?.keySchema)
assert.ok(recordTypes.length > 0, 'record types of ours')

// Each answers what is wrong, or nothing.
const verdicts = {
  '@atproto/lexicon': ({ nsid, record }) => void lexicons.assertValidRecord(nsid, jsonToLex(record)),
  '@atproto/lex-document': ({ nsid, rkey, record }) => {
    const schema = strict.get(`${nsid}#main`)
    schema.keySchema.parse(rkey)
    schema.parse(strictJsonToLex(record, { strict: true }), { strict: true })
  },
}
const complaints = (example) =>
  Object.entries(verdicts).flatMap(([library, check]) => {
    try {
      check(example)
      return []
    } catch (err) {
      return [`${library}: ${err.message}`]
    }
  })

const valid = examples('valid')
assert.deepEqual([...new Set(valid.map((e) => e.nsid))], recordTypes.toSorted(), 'each record type has a valid example')
for (const example of valid) {
  await step(`valid ${example.at}`, () => assert.deepEqual(complaints(example), []))
}

const invalid = examples('invalid')
for (const example of invalid) {
  await step(`invalid ${example.at}`, () => {
    const said = complaints(example)
    if (beyondSchema.has(example.at)) assert.deepEqual(said, [], 'the schema refuses it by itself: take it off the list beyondSchema')
    else assert.notEqual(said.length, 0, `taken, though it is invalid (${example.reason})`)
  })
}
for (const at of beyondSchema) assert.ok(invalid.some((e) => e.at === at), `beyondSchema names ${at}, which is no example`)

// Every record of ours that the city published.
const ask = async (method, params) => (await fetch(`${city.pds}/xrpc/${method}?${new URLSearchParams(params)}`)).json()
async function* published(did, collection) {
  for (let cursor = ''; cursor !== undefined; ) {
    const page = await ask('com.atproto.repo.listRecords', { repo: did, collection, limit: 100, cursor })
    yield* page.records
    cursor = page.cursor
  }
}
const live = new Map(recordTypes.map((nsid) => [nsid, 0]))
for (const { did } of (await ask('com.atproto.sync.listRepos', { limit: 1000 })).repos) {
  for (const nsid of (await ask('com.atproto.repo.describeRepo', { repo: did })).collections) {
    for await (const { uri, value } of live.has(nsid) ? published(did, nsid) : []) {
      const rkey = uri.split('/').at(-1)
      await step(`record ${uri}`, () => assert.deepEqual(complaints({ nsid, rkey, record: value }), []))
      live.set(nsid, live.get(nsid) + 1)
    }
  }
}
const used = [...live].filter(([, n]) => n > 0)
for (const nsid of ['work.task', 'work.claim', 'work.proof', 'work.verification', 'ledger.receipt', 'ledger.checkpoint', 'offer.redemption']) {
  assert.ok(live.get(`org.city-sync.${nsid}`) > 0, `the city published a ${nsid}`)
}

console.error(
  [
    `${documents.length} schemas`,
    `${valid.length} valid examples taken`,
    `${invalid.length - beyondSchema.size} of ${invalid.length} invalid ones refused`,
    `${used.reduce((sum, [, n]) => sum + n, 0)} records of ${used.length} types in the city valid`,
  ].join(', '),
)

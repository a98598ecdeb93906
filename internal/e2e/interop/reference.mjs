// The reference PDS as published, on a free port of this machine, with its data in a folder that goes with it.
//
//   node reference.mjs PLC_URL
//
// The first line on standard output is its address; each mail that it would send follows as one line of JSON. It stops when its standard input
// closes. Its administrator's password is the address's own text.
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { randomBytes } from 'node:crypto'
import { PDS, envToCfg, envToSecrets } from '@atproto/pds'
import Database from 'better-sqlite3'

// What stands here under that name is libsql, which comes compiled. It gives blobs as ArrayBuffers where better-sqlite3 gives Buffers, and
// with a write-ahead log it waits for the disk at every commit where better-sqlite3 is compiled not to. Both are put right.
const { prepare } = Database.prototype
const opened = new WeakSet()
Database.prototype.prepare = function (sql) {
  if (!opened.has(this)) {
    opened.add(this)
    this.exec('pragma synchronous = normal')
  }
  return prepare.call(this, sql)
}
const statement = Object.getPrototypeOf(new Database(':memory:').prepare('select 1'))
const { iterate } = statement
statement.iterate = function (...parameters) {
  const rows = iterate.apply(this, parameters)
  const { next } = rows
  rows.next = function () {
    const row = next.call(this)
    for (const name in row.value) {
      if (row.value[name] instanceof ArrayBuffer) row.value[name] = Buffer.from(row.value[name])
    }
    return row
  }
  return rows
}

const [plc] = process.argv.slice(2)
const dir = await mkdtemp(path.join(tmpdir(), 'reference-pds-'))
const port = await new Promise((resolve, reject) => {
  const probe = net.createServer().once('error', reject)
  probe.listen(0, () => {
    const { port } = probe.address()
    probe.close(() => resolve(port))
  })
})
const url = `http://localhost:${port}`
const blobs = path.join(dir, 'blobs')
await mkdir(blobs)

const secret = () => randomBytes(32).toString('hex')
const env = {
  port,
  hostname: 'localhost',
  dataDirectory: dir,
  blobstoreDiskLocation: blobs,
  blobstoreDiskTmpLocation: path.join(dir, 'uploads'),
  didPlcUrl: plc,
  serviceHandleDomains: ['.test'],
  inviteRequired: false,
  devMode: true,
  bskyAppViewUrl: url, // nothing is asked of it: no request leaves this machine
  bskyAppViewDid: 'did:web:localhost',
  jwtSecret: secret(),
  dpopSecret: secret(),
  adminPassword: url,
  plcRotationKeyK256PrivateKeyHex: secret(),
}
const pds = await PDS.create(envToCfg(env), envToSecrets(env))
pds.ctx.mailer.transporter.sendMail = async (mail) => {
  console.log(JSON.stringify({ to: mail.to, subject: mail.subject, html: mail.html }))
}
await pds.start()
console.log(url)

process.stdin.resume()
process.stdin.on('end', async () => {
  await pds.destroy()
  await rm(dir, { recursive: true, force: true })
  process.exit(0)
})
